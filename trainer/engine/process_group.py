"""The processes that a launcher started, and every collective on small host values.

torchrun, `accelerate launch` and `deepspeed` all describe the processes by RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*.
Without these variables there is one process.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.engine.config import EngineConfig

T = TypeVar("T")
_WORKING, _DONE, _FAILED = 0.0, 1.0, 2.0
_SECONDS_BETWEEN_SUMS = 2.0
_SECONDS_FOR_THE_LAST_SUM = 10.0


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of processes; known before any process group exists."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class ProcessGroup:
    """All processes of the run, joined once and handed to everything that communicates.

    Device tensors are sent by NCCL on CUDA. Host values are always sent by gloo, so that agreeing on a number never
    waits for the device's queue. One process alone needs no group, except for DeepSpeed. A torch group that exists
    already is used and not destroyed.
    """

    def __init__(self, device: torch.device, config: EngineConfig) -> None:
        self.rank, self.world_size = rank_and_world_size()
        self.device = device
        self._timeout = timedelta(minutes=config.timeout_minutes)
        self._joined = not dist.is_initialized() and ("RANK" in os.environ or config.kind != "ddp")
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
        """The values of all ranks, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def while_the_others_wait(self, work: Callable[[], T]) -> T | None:
        """Calls `work` on rank 0, however long it takes. Returns its result there, and None on the other ranks.

        Meanwhile all ranks repeat a small all-reduce, which for rank 0 a thread does, so that no collective lasts as
        long as the timeout and a rank 0 that dies is noticed at once:

            rank 0, main thread  | work ..................................| verdict   | join, return
            rank 0, its thread   | sum(0)      sum(0)      sum(0)   ...   | sum(1)    | end
            the other ranks      | sum(0) = 0  sum(0) = 0  sum(0) = 0 ... | sum(0) = 1| return None

        If `work` raises, the last sum is 2 instead: rank 0 reports the exception and ends, and the other ranks wait in
        one more sum until it has ended, then raise SystemExit.
        """
        if self.world_size == 1:
            return work()
        if self.rank != 0:
            self._wait_for_rank_0()
            return None
        verdicts, errors = SimpleQueue[float](), list[Exception]()
        # The only thread ever in a collective: the main thread works, and the other ranks make no other collective.
        summing = Thread(target=self._sum_until_verdict, args=(verdicts, errors), name="waiting-ranks", daemon=True)
        summing.start()
        try:
            value = work()
        except BaseException:
            verdicts.put(_FAILED)
            summing.join(_SECONDS_FOR_THE_LAST_SUM)
            raise
        verdicts.put(_DONE)
        summing.join()
        if errors:
            raise errors[0]
        return value

    def _sum_until_verdict(self, verdicts: "SimpleQueue[float]", errors: list[Exception]) -> None:
        """Rank 0's thread: sums "working" every few seconds, then the verdict."""
        verdict, pause = _WORKING, min(_SECONDS_BETWEEN_SUMS, self._timeout.total_seconds() / 4)
        try:
            while verdict == _WORKING:
                with suppress(Empty):
                    verdict = verdicts.get(timeout=pause)
                self.sum([verdict])
        except Exception as error:  # another rank has died: finish the work, which outlives this start
            errors.append(error)

    def _wait_for_rank_0(self) -> None:
        while (verdict := self.sum([_WORKING])[0]) == _WORKING:
            pass
        if verdict == _FAILED:
            with suppress(RuntimeError):  # raised once rank 0 has ended
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
        """Destroys the torch group if this object made it."""
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()
