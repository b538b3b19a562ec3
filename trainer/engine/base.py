"""The engine seam: everything that the training loop may ask of parallel training.

The law: for the same micro-batches every engine makes the same update as one process that holds them all. So a loss
function returns sums over tokens; the engine counts the target tokens of the step over all ranks first and scales
each sum by `world_size / num_target_tokens` before backward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

FragmentKind = Literal["weight", "exp_avg", "exp_avg_sq"]
FRAGMENT_KINDS: tuple[FragmentKind, ...] = ("weight", "exp_avg", "exp_avg_sq")


class MicroBatch(Protocol):
    """What the engine needs to know about a micro-batch."""

    @property
    def num_target_tokens(self) -> int: ...

    def parts(self, number: int) -> "Sequence[MicroBatch]":
        """The same sentences in `number` micro-batches. Raises ValueError if it has fewer sentences."""


class LossSums(NamedTuple):
    """Sums over the real target tokens of one micro-batch, 0-dim fp32 tensors, nats; `loss` carries the graph."""

    loss: Tensor
    nll: Tensor


LossFunction = Callable[[nn.Module, Any], LossSums]


@dataclass(frozen=True)
class StepResult:
    """One optimizer step over all ranks; `loss` and `nll` are means per target token.

    `grad_norm` is the global norm before clipping. `skipped` is true on every rank if the gradients of any rank were
    not finite or the loss was above its bound; weights and moments are then unchanged. `num_splits` counts, over all
    ranks, how often a micro-batch, or a part of one, ran out of memory and was computed in two halves instead.
    """

    loss: float
    nll: float
    num_target_tokens: int
    grad_norm: float
    skipped: bool
    num_splits: int = 0


@dataclass(frozen=True)
class Fragment:
    """A flat, contiguous piece of one parameter and of its Adam moments: elements [offset, offset + length).

    All three tensors are 1-D fp32. The fragments of all ranks together cover every parameter exactly once.
    """

    name: str
    offset: int
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @property
    def length(self) -> int:
        return self.weight.numel()


class FragmentReader(Protocol):
    """Reads pieces of a saved state, whichever engine wrote it on any number of ranks."""

    @property
    def num_updates(self) -> int:
        """Optimizer updates applied so far (Adam's own step count; skipped steps do not count)."""

    def read(self, name: str, kind: FragmentKind, offset: int, length: int) -> Tensor:
        """Elements [offset, offset + length) of the flattened parameter or moment, fp32, on the CPU."""


class Engine(Protocol):
    """One rank's handle on the training of one model by all ranks. Methods are collectives unless stated otherwise."""

    rank: int
    world_size: int
    device: torch.device
    num_updates: int

    def step(
        self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction, lr: float, max_loss: float | None = None
    ) -> StepResult:
        """Makes one optimizer step from this rank's micro-batches; every rank gives equally many.

        Skips the step if its loss per target token, over all ranks, is above `max_loss`. Raises OutOfMemory on the rank
        that runs out of memory if the step cannot be made in smaller parts.
        """

    def rehearse(self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction) -> None:
        """Takes the memory that a step takes, without changing weights or moments. Call it before the first step.

        Raises OutOfMemory on the rank that runs out of memory.
        """

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in float64, the same on every rank."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on every rank. A value is whatever JSON can hold."""

    def fragments(self) -> Iterator[Fragment]:
        """This rank's share of weights and moments. Not a collective."""

    def load_fragments(self, reader: FragmentReader) -> None:
        """Replaces weights, moments and the update count by a saved state's."""

    def full_weights(self) -> dict[str, Tensor]:
        """Detached fp32 copies of all whole weights by parameter name, on every rank, on `device`."""

    def peak_memory(self) -> int:
        """Bytes: the most this process has held (device memory on CUDA, else resident memory). Not a collective."""

    def close(self) -> None:
        """Ends the library's use of the processes. Not a collective."""
