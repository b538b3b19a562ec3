"""The law of the seam, written once: how micro-batches on many ranks become one optimizer step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor

from trainer.engine.base import Fragment, LossFunction, LossSums, MicroBatch, StepResult
from trainer.engine.fragments import Slice, make_moments, read_slices
from trainer.engine.memory import is_out_of_memory, peak_host_memory, telling_out_of_memory
from trainer.engine.process_group import ProcessGroup
from trainer.errors import OutOfMemory

ScaledLoss = Callable[[LossSums, bool], Tensor]
"""What to take the gradient of, once the sums of a micro-batch are known; whether it is the last of the step."""


class AccumulatingEngine(ABC):
    """Counts the step's target tokens, accumulates scaled gradients and sums up; subclasses do backward and update."""

    def __init__(self, processes: ProcessGroup, device: torch.device) -> None:
        self._processes = processes
        self.rank = processes.rank
        self.world_size = processes.world_size
        self.device = device
        self.num_updates = 0
        self._may_split = True

    def step(
        self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction, lr: float, max_loss: float | None = None
    ) -> StepResult:
        """See `Engine.step`. Both libraries average gradients over ranks, hence the factor `world_size`."""
        counted = self.sum([sum(micro_batch.num_target_tokens for micro_batch in micro_batches)])
        num_target_tokens = int(counted[0])
        assert num_target_tokens > 0, "a step without target tokens"
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        scaled = partial(self._scaled, totals=totals, num_target_tokens=num_target_tokens, max_loss=max_loss)
        with telling_out_of_memory():
            last = len(micro_batches) - 1
            splits = [self._pass(m, loss_fn, scaled, n == last) for n, m in enumerate(micro_batches)]
            grad_norm = self._update(lr)
        # After the update, so that a GPU does not stand still while the hosts add up.
        loss, nll, num_splits = self.sum([*totals.tolist(), sum(splits)])
        skipped = not isfinite(grad_norm)
        self.num_updates += 0 if skipped else 1
        return StepResult(
            loss / num_target_tokens,
            nll / num_target_tokens,
            num_target_tokens,
            inf if skipped else grad_norm,
            skipped,
            int(num_splits),
        )

    def rehearse(self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction) -> None:
        """See `Engine.rehearse`. A step whose loss is above its bound is skipped by every engine.

        It has a second use: after its first reduction DDP lays out its buckets anew, and sums over more than two ranks
        depend on the layout in the last bit. Without it, the first step after a resume would differ from the
        uninterrupted run's.
        """
        make_moments(self._slices(), self._optimizer)
        may_split, self._may_split = self._may_split, False
        self.step(micro_batches, loss_fn, 0.0, max_loss=-inf)
        self._may_split = may_split

    def _pass(self, micro_batch: MicroBatch, loss_fn: LossFunction, scaled: ScaledLoss, last: bool) -> int:
        """Forward and backward, in two parts where the forward finds no memory; how many times that was so here."""
        with self._accumulating(last):
            sums = self._forward(micro_batch, loss_fn)
            if not self._must_split(sums is None):
                assert sums is not None
                self._backward(scaled(sums, last))
                return 0
        failed, sums = sums is None, None  # the memory of a rank that had enough must be free as well
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        halves = self._halves(micro_batch)
        return failed + sum(self._pass(half, loss_fn, scaled, last and half is halves[-1]) for half in halves)

    def _forward(self, micro_batch: MicroBatch, loss_fn: LossFunction) -> LossSums | None:
        """None where there is no memory for it and it may be tried again in parts.

        That is safe because all of the loss is computed inside the model's own forward: DDP prepares for the backward
        of a step's last pass only after that.
        """
        try:
            return loss_fn(self._model, micro_batch)
        except Exception as error:
            if not (self._may_split and is_out_of_memory(error)):
                raise
        return None

    def _halves(self, micro_batch: MicroBatch) -> Sequence[MicroBatch]:
        """Where one rank has a single sentence, all give up: it would be one pass short."""
        try:
            halves = micro_batch.parts(2)
        except ValueError:
            halves = []
        if self._must_split(not halves):
            raise OutOfMemory("a micro-batch of a single sentence")
        return halves

    def _scaled(
        self, sums: LossSums, last: bool, totals: Tensor, num_target_tokens: int, max_loss: float | None
    ) -> Tensor:
        """What to take the gradient of; adds the micro-batch to `totals`, this rank's sums of loss and nll."""
        totals += torch.stack([sums.loss.detach(), sums.nll.detach()])
        if last and max_loss is not None and self.sum([totals[0].item()])[0] / num_target_tokens > max_loss:
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
        return peak_host_memory()

    def close(self) -> None:
        self._processes.leave()

    @property
    @abstractmethod
    def _optimizer(self) -> torch.optim.Optimizer:
        """The AdamW whose state holds the moments."""

    @property
    @abstractmethod
    def _model(self) -> torch.nn.Module:
        """The model as the library wraps it."""

    @abstractmethod
    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward; after the `last` of a step, gradients may be reduced."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Adds the gradient of the loss."""

    @abstractmethod
    def _must_split(self, failed: bool) -> bool:
        """Whether this rank must repeat a pass in parts; a collective where each pass has collectives of its own."""

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
