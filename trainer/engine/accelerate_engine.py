"""One process, or data parallel with whole replicas (DDP), by Accelerate."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf, isfinite
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from torch import Tensor, nn

from trainer.engine.base import FragmentReader
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.optimizer import build_optimizer
from trainer.engine.optimizer_step import SteppingEngine
from trainer.engine.process_group import ProcessGroup
from trainer.engine.slices import Slice, write_slices


class AccelerateEngine(SteppingEngine):
    """Every rank holds the whole fp32 weights and moments, and saves an equal part of each parameter.

    `model` is in host memory; all ranks start from rank 0's weights. The model casts to its precision itself, so
    mixed precision is switched off here.
    """

    def __init__(
        self, model: nn.Module, processes: ProcessGroup, config: EngineConfig, optimizer: OptimizerConfig
    ) -> None:
        assert config.kind == "ddp"
        super().__init__(processes)
        self._accelerator = Accelerator(
            mixed_precision="no",
            gradient_accumulation_steps=1,
            cpu=self.device.type == "cpu",
            dynamo_backend="no",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
        self._check_accelerator()
        self._plain_model = model.to(self.device)
        self._adamw = build_optimizer(model, optimizer)
        self._replica = self._replicate(model) if self.world_size > 1 else model
        self._max_norm = optimizer.clip or inf

    def _check_accelerator(self) -> None:
        """Accelerate may run fewer processes, or another engine that its environment names, without saying so."""
        found = (self._accelerator.process_index, self._accelerator.num_processes)
        assert found == (self.rank, self.world_size), f"Accelerate runs as rank {found[0]} of {found[1]}"
        allowed = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        assert self._accelerator.distributed_type in allowed, f"Accelerate runs {self._accelerator.distributed_type}"

    def _replicate(self, model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # its heir is too new
            replicated = self._accelerator.prepare(model)
        assert isinstance(replicated, nn.parallel.DistributedDataParallel), f"Accelerate runs {type(replicated)}"
        return replicated

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self._adamw

    @property
    def _model(self) -> nn.Module:
        return self._replica

    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._accelerator.no_sync(self._replica)

    def _backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def _agree_to_split(self, out_of_memory: bool) -> bool:
        """Each rank decides alone: ranks meet only in the backward of the step's last pass, after however many."""
        return out_of_memory

    def _agree_to_give_up(self, single_sentence: bool) -> bool:
        return single_sentence

    def _update(self, lr: float) -> float:
        """See `SteppingEngine._update`. Ranks see the same reduced gradients: a NaN on one rank is a NaN on all."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        norm = self._accelerator.clip_grad_norm_(self._plain_model.parameters(), self._max_norm)
        grad_norm = float(norm)
        if isfinite(grad_norm):
            self._adamw.step()
        self._adamw.zero_grad()
        return grad_norm

    def _slices(self) -> Sequence[Slice]:
        parts = (self._slice(n, p, self.rank, self.world_size) for n, p in self._plain_model.named_parameters())
        return [part for part in parts if part.length]

    def _slice(self, name: str, parameter: nn.Parameter, part: int, num_parts: int) -> Slice:
        start, end = (parameter.numel() * number // num_parts for number in (part, part + 1))
        return Slice(name, start, end - start, parameter, start)

    def load_fragments(self, reader: FragmentReader) -> None:
        """See `Engine.load_fragments`. Every rank reads all of it, since every rank has a whole replica."""
        wholes = [self._slice(name, p, 0, 1) for name, p in self._plain_model.named_parameters()]
        write_slices(wholes, self._adamw, reader)
        self.num_updates = reader.num_updates

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine.full_weights`. Exact copies; no communication."""
        return {name: p.detach().clone() for name, p in self._plain_model.named_parameters()}

    def close(self) -> None:
        """See `Engine.close`. Accelerate keeps nothing to end."""
