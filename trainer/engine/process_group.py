"""Joining the processes that a launcher started, and every collective on small host values.

torchrun, `accelerate launch` and `deepspeed` all describe the processes by RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*;
without them there is one process and no process group.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import UserError

T = TypeVar("T")
_WORKING, _DONE, _FAILED = 0.0, 1.0, 2.0
_SECONDS_BETWEEN_WORDS = 2.0
_SECONDS_TO_TELL = 10.0


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of processes; known before any process group exists."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of this process: on CUDA the one numbered LOCAL_RANK, which becomes the current one."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("`engine.device` is cuda, but torch finds no CUDA device on this machine; set auto or cpu.")
    index, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= found:
        raise UserError(
            f"this machine has {found} CUDA device(s), but process {index} needs one of its own: start at most {found} "
            "processes, or set `engine.device` to cpu."
        )
    # Split sums of a product in bf16 would differ from what the CPU and other shapes compute.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


class ProcessGroup:
    """All processes of the run.

    Tensors of the device travel over NCCL on CUDA; host values always travel over gloo, so that agreeing on a number
    never waits for the device's queue. `required`: make a group even for a single process (DeepSpeed wants one). A
    group that exists already is used and left alone.
    """

    def __init__(self, device: torch.device, timeout_minutes: float, *, required: bool = False) -> None:
        self.rank, self.world_size = rank_and_world_size()
        self._timeout = timedelta(minutes=timeout_minutes)
        self._joined = not dist.is_initialized() and (required or "RANK" in os.environ)
        if self._joined:
            self._join("nccl" if device.type == "cuda" else "gloo")
        self._host_group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            assert (dist.get_rank(), dist.get_world_size()) == (self.rank, self.world_size)
            if dist.get_backend() != "gloo":
                self._host_group = dist.new_group(backend="gloo", timeout=self._timeout)

    def _join(self, backend: str) -> None:
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=self._timeout)
        else:
            dist.init_process_group(backend, timeout=self._timeout, store=dist.HashStore(), rank=0, world_size=1)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in float64, the same on every rank."""
        if self.world_size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._host_group)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """One value from every rank, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def while_the_others_wait(self, work: Callable[[], T]) -> T | None:
        """Does `work` on rank 0, for as long as it takes, and returns what it returns; None on the others.

        They hear from rank 0 every few seconds, so that they outlast the limit on collectives, but not rank 0. Where
        the work fails, they end with SystemExit once rank 0 has gone, which says why.
        """
        if self.world_size == 1:
            return work()
        if self.rank != 0:
            self._wait()
            return None
        verdicts, errors = SimpleQueue[float](), list[Exception]()
        # A thread in a collective, this once: the main thread is at work, and the others take part in nothing else.
        teller = Thread(target=self._tell, args=(verdicts, errors), name="teller", daemon=True)
        teller.start()
        try:
            value = work()
        except BaseException:
            verdicts.put(_FAILED)
            teller.join(_SECONDS_TO_TELL)
            raise
        verdicts.put(_DONE)
        teller.join()
        if errors:
            raise errors[0]
        return value

    def _tell(self, verdicts: "SimpleQueue[float]", errors: list[Exception]) -> None:
        verdict, pause = _WORKING, min(_SECONDS_BETWEEN_WORDS, self._timeout.total_seconds() / 4)
        try:
            while verdict == _WORKING:
                with suppress(Empty):
                    verdict = verdicts.get(timeout=pause)
                self.sum([verdict])
        except Exception as error:  # another rank has died; the work is worth finishing
            errors.append(error)

    def _wait(self) -> None:
        while (verdict := self.sum([_WORKING])[0]) == _WORKING:
            pass
        if verdict == _FAILED:
            with suppress(RuntimeError):
                self.sum([_WORKING])
            raise SystemExit(1)

    def sum_tensor(self, tensor: Tensor) -> None:
        """Replaces a tensor on the device by its sum over ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def broadcast_host_tensor(self, tensor: Tensor) -> None:
        """Replaces a tensor in host memory by rank 0's."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=0, group=self._host_group)

    def leave(self) -> None:
        """Destroys the group if this object made it."""
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()
