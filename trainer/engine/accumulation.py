"""The law of the seam, written once: how micro-batches on many ranks become one optimizer step."""

import resource
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor

from trainer.engine.base import Fragment, LossFunction, LossSums, MicroBatch, StepResult
from trainer.engine.fragments import Slice, read_slices
from trainer.engine.process_group import ProcessGroup

ScaledLoss = Callable[[LossSums], Tensor]
"""What to take the gradient of, once the sums of a micro-batch are known."""


class AccumulatingEngine(ABC):
    """Counts the step's target tokens, accumulates scaled gradients and sums up; subclasses do backward and update."""

    def __init__(self, processes: ProcessGroup, device: torch.device) -> None:
        self._processes = processes
        self.rank = processes.rank
        self.world_size = processes.world_size
        self.device = device
        self.num_updates = 0

    def step(
        self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction, lr: float, max_loss: float | None = None
    ) -> StepResult:
        """See `Engine.step`. Both libraries average gradients over ranks, hence the factor `world_size`."""
        counted = self.sum([sum(micro_batch.num_target_tokens for micro_batch in micro_batches)])
        num_target_tokens = int(counted[0])
        assert num_target_tokens > 0, "a step without target tokens"
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            is_last = number == len(micro_batches)
            bound = max_loss if is_last else None
            scaled = partial(self._scaled, totals=totals, num_target_tokens=num_target_tokens, max_loss=bound)
            self._backward(micro_batch, loss_fn, scaled, is_last)
        grad_norm = self._update(lr)
        # After the update, so that a GPU does not stand still while the hosts add up.
        loss, nll = (total / num_target_tokens for total in self.sum(totals.tolist()))
        skipped = not isfinite(grad_norm)
        self.num_updates += 0 if skipped else 1
        return StepResult(loss, nll, num_target_tokens, inf if skipped else grad_norm, skipped)

    def _scaled(self, sums: LossSums, totals: Tensor, num_target_tokens: int, max_loss: float | None) -> Tensor:
        """What to take the gradient of; adds the micro-batch to `totals`, this rank's sums of loss and nll."""
        totals += torch.stack([sums.loss.detach(), sums.nll.detach()])
        if max_loss is not None and self.sum([totals[0].item()])[0] / num_target_tokens > max_loss:
            # Gradients that are no numbers make every engine drop the whole step, the earlier micro-batches too.
            return sums.loss * nan
        return sums.loss * (self.world_size / num_target_tokens)

    def sum(self, values: Sequence[float]) -> list[float]:
        return self._processes.sum(values)

    def any(self, flag: bool) -> bool:
        return self._processes.any(flag)

    def gather(self, value: Any) -> list[Any]:
        return self._processes.gather(value)

    def fragments(self) -> Iterator[Fragment]:
        """See `Engine.fragments`. The tensors view live memory: copy what must outlast the next step."""
        return read_slices(self._slices(), self._optimizer)

    def peak_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def close(self) -> None:
        self._processes.leave()

    @property
    @abstractmethod
    def _optimizer(self) -> torch.optim.Optimizer:
        """The AdamW whose state holds the moments."""

    @abstractmethod
    def _backward(self, micro_batch: MicroBatch, loss_fn: LossFunction, scaled: ScaledLoss, last: bool) -> None:
        """Adds the gradient of the scaled loss; after the `last` of a step, gradients may be reduced."""

    @abstractmethod
    def _update(self, lr: float) -> float:
        """Clips and applies the gradients and returns their norm before clipping.

        Where the norm is not finite it changes nothing; every rank comes to the same verdict.
        """

    @abstractmethod
    def _slices(self) -> Sequence[Slice]:
        """This rank's share of all parameters."""

    @abstractmethod
    def full_weights(self) -> dict[str, Tensor]: ...
