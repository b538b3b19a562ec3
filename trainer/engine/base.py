"""The engine seam: what the loop may ask of parallel training, and nothing more.

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
    """What the engine needs to know of a micro-batch."""

    @property
    def num_target_tokens(self) -> int: ...

    def parts(self, number: int) -> "Sequence[MicroBatch]":
        """The same sentences in so many micro-batches. Raises ValueError where there are fewer sentences."""


class LossSums(NamedTuple):
    """Sums over the real target tokens of one micro-batch, 0-dim fp32 tensors, nats; `loss` carries the graph."""

    loss: Tensor
    nll: Tensor


LossFunction = Callable[[nn.Module, Any], LossSums]


@dataclass(frozen=True)
class StepResult:
    """One optimizer step over all ranks; `loss` and `nll` are means per target token.

    `grad_norm` is the global norm before clipping. `skipped` is true on every rank where the gradients of any rank
    were not finite or the loss was above the bound: weights and moments are then untouched. `num_splits` counts the
    micro-batches, over all ranks, that found no memory as a whole and were computed in two parts, and the parts alike.
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
    """Reads pieces of a saved state, whatever ranks and engine wrote it."""

    @property
    def num_updates(self) -> int:
        """Optimizer updates applied so far (Adam's own step count; skipped steps do not count)."""

    def read(self, name: str, kind: FragmentKind, offset: int, length: int) -> Tensor:
        """Elements [offset, offset + length) of the flattened parameter or moment, fp32, on the CPU."""


class Engine(Protocol):
    """One rank's handle on the training of one model by all ranks. Every method is a collective unless it says no."""

    rank: int
    world_size: int
    device: torch.device
    num_updates: int

    def step(
        self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction, lr: float, max_loss: float | None = None
    ) -> StepResult:
        """One optimizer step from this rank's micro-batches (as many on every rank), skipped above `max_loss`.

        Raises OutOfMemory, on the rank that has too little, where the step cannot be made in parts.
        """

    def rehearse(self, micro_batches: Sequence[MicroBatch], loss_fn: LossFunction) -> None:
        """A step that changes nothing but takes the memory that steps take; to be called before the first one.

        Raises OutOfMemory, on the rank that has too little.
        """

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in float64, the same on every rank."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""

    def gather(self, value: Any) -> list[Any]:
        """One JSON-able value from every rank, by rank, on every rank."""

    def fragments(self) -> Iterator[Fragment]:
        """This rank's share of weights and moments; not a collective."""

    def load_fragments(self, reader: FragmentReader) -> None:
        """Takes weights, moments and the update count from a saved state."""

    def full_weights(self) -> dict[str, Tensor]:
        """Detached fp32 copies of all weights by parameter name, whole, on every rank, on `device`."""

    def peak_memory(self) -> int:
        """Bytes: the most this process has held (device memory on CUDA, resident memory elsewhere); no collective."""

    def close(self) -> None:
        """Leaves the process group."""
