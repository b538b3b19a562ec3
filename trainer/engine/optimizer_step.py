"""How micro-batches on many ranks become one optimizer step: the part that all engines share.

1 count             the target tokens of the step, over all ranks and micro-batches
2 forward, backward of each micro-batch; the gradients of the scaled sums accumulate
3 split             a micro-batch whose forward runs out of memory, and repeat 2 with its halves
4 update            clip the gradients and apply them, or skip the step
5 sum               loss, nll and number of splits over all ranks
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor

from trainer.engine.base import Fragment, LossFunction, LossSums, MicroBatch, StepResult
from trainer.engine.out_of_memory import is_out_of_memory, raising_out_of_memory
from trainer.engine.peak_memory import peak_memory
from trainer.engine.process_group import ProcessGroup
from trainer.engine.slices import Slice, make_moments, read_slices
from trainer.errors import OutOfMemory


@dataclass
class StepSums:
    """What one rank adds up during a step.

    `num_target_tokens` counts the whole step over all ranks. `loss_and_nll` (2 numbers, float64, on the device) and
    `num_splits` are this rank's own. `max_loss` bounds the step's loss per target token; None is no bound.
    """

    num_target_tokens: int
    max_loss: float | None
    loss_and_nll: Tensor
    num_splits: int = 0

    def add(self, sums: LossSums) -> None:
        self.loss_and_nll += torch.stack([sums.loss.detach(), sums.nll.detach()])


class SteppingEngine(ABC):
    """The optimizer step of every engine; subclasses do backward and update with their library."""

    def __init__(self, processes: ProcessGroup) -> None:
        self._processes = processes
        self.rank = processes.rank
        self.world_size = processes.world_size
        self.device = processes.device
        self.num_updates = 0
        self._may_split = True

    def step(
        self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction, lr: float, max_loss: float | None = None
    ) -> StepResult:
        """See `Engine.step`."""
        step_sums = self._count(micro_batches, max_loss)
        with raising_out_of_memory():
            for number, micro_batch in enumerate(micro_batches, start=1):
                self._forward_backward(micro_batch, loss_fn, step_sums, last=number == len(micro_batches))
            grad_norm = self._update(lr)
        # After the update: a GPU would be idle while the hosts sum.
        return self._sum_up(step_sums, grad_norm)

    def rehearse(self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction) -> None:
        """See `Engine.rehearse`. A step whose loss is above its bound is skipped by every engine.

        This has a second use: after its first reduction DDP lays out its buckets again, and sums over more than two
        ranks depend on the layout in the last bit. Without a rehearsal, the first step after a resume would differ
        from the uninterrupted run's.
        """
        make_moments(self._slices(), self._optimizer)
        may_split, self._may_split = self._may_split, False
        self.step(micro_batches, loss_fn, 0.0, max_loss=-inf)
        self._may_split = may_split

    # 1 count

    def _count(self, micro_batches: Sequence[MicroBatch], max_loss: float | None) -> StepSums:
        (num_target_tokens,) = self.sum([sum(micro_batch.num_target_tokens for micro_batch in micro_batches)])
        assert num_target_tokens > 0, "a step without target tokens"
        return StepSums(int(num_target_tokens), max_loss, torch.zeros(2, dtype=torch.float64, device=self.device))

    # 2 forward, backward

    def _forward_backward(
        self, micro_batch: MicroBatch, loss_fn: LossFunction, step_sums: StepSums, last: bool
    ) -> None:
        """Adds the micro-batch's gradients and sums to those of the step; in halves if the ranks must split."""
        with self._accumulating(last):
            sums = self._forward(micro_batch, loss_fn)
            if not self._agree_to_split(sums is None):
                assert sums is not None
                step_sums.add(sums)
                self._backward(self._scale(sums.loss, step_sums, last))
                return
        step_sums.num_splits += sums is None
        del sums  # its graph holds the memory of a rank on which the whole micro-batch had room
        halves = self._split(micro_batch)
        for half in halves:
            self._forward_backward(half, loss_fn, step_sums, last and half is halves[-1])

    def _forward(self, micro_batch: MicroBatch, loss_fn: LossFunction) -> LossSums | None:
        """Returns None if the forward runs out of memory and may be repeated in halves.

        To repeat it is safe because the whole loss is computed inside the model's own forward: only after that does
        DDP prepare for the backward of a step's last pass.
        """
        try:
            return loss_fn(self._model, micro_batch)
        except Exception as error:
            if not (self._may_split and is_out_of_memory(error)):
                raise
        return None

    def _scale(self, loss: Tensor, step_sums: StepSums, last: bool) -> Tensor:
        """The loss to differentiate: the sum divided by the step's target tokens.

        Times `world_size`, because both libraries average gradients over the ranks. Once the step's loss is known to
        be above its bound, NaN: such gradients make every engine skip the step, earlier micro-batches included.
        """
        if last and step_sums.max_loss is not None:
            (loss_sum,) = self.sum([step_sums.loss_and_nll[0].item()])
            if loss_sum / step_sums.num_target_tokens > step_sums.max_loss:
                return loss * nan
        return loss * (self.world_size / step_sums.num_target_tokens)

    # 3 split

    def _split(self, micro_batch: MicroBatch) -> Sequence[MicroBatch]:
        """The two halves of a micro-batch. Raises OutOfMemory if it is a single sentence.

        Where each pass has collectives, all ranks raise it as soon as one has a single sentence left, since every rank
        must make the same number of passes.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            halves = micro_batch.parts(2)
        except ValueError:
            halves = []
        if self._agree_to_give_up(not halves):
            raise OutOfMemory("a micro-batch of a single sentence")
        return halves

    # 5 sum (4, the update, is the library's)

    def _sum_up(self, step_sums: StepSums, grad_norm: float) -> StepResult:
        loss, nll, num_splits = self.sum([*step_sums.loss_and_nll.tolist(), step_sums.num_splits])
        skipped = not isfinite(grad_norm)
        self.num_updates += 0 if skipped else 1
        return StepResult(
            loss / step_sums.num_target_tokens,
            nll / step_sums.num_target_tokens,
            step_sums.num_target_tokens,
            inf if skipped else grad_norm,
            skipped,
            int(num_splits),
        )

    def sum(self, values: Sequence[float]) -> list[float]:
        return self._processes.sum(values)

    def any(self, flag: bool) -> bool:
        return self._processes.any(flag)

    def gather(self, value: Any) -> list[Any]:
        return self._processes.gather(value)

    def fragments(self) -> Iterator[Fragment]:
        """See `Engine.fragments`. The tensors are views of live memory: copy them to keep them past the next step."""
        return read_slices(self._slices(), self._optimizer)

    def peak_memory(self) -> int:
        return peak_memory(self.device)

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
        """A context for forward and backward. Only in the `last` one of a step may gradients be reduced over ranks."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Adds the gradient of the loss."""

    @abstractmethod
    def _agree_to_split(self, out_of_memory: bool) -> bool:
        """Whether this rank repeats its forward in halves, given whether its own forward ran out of memory.

        A collective if each pass has collectives: then all ranks split if one must.
        """

    @abstractmethod
    def _agree_to_give_up(self, single_sentence: bool) -> bool:
        """Whether this rank gives up the step, given whether what it should split is a single sentence.

        A collective if `_agree_to_split` is one.
        """

    @abstractmethod
    def _update(self, lr: float) -> float:
        """Clips the gradients, applies them, and returns their norm before clipping.

        If the norm is not finite, nothing changes. All ranks return the same.
        """

    @abstractmethod
    def _slices(self) -> Sequence[Slice]:
        """This rank's share of all parameters."""

    @abstractmethod
    def full_weights(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def close(self) -> None: ...
