"""Converts the optimizer's tensors to fragments and back, for whole parameters and for ZeRO's flat partitions alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.engine.base import FRAGMENT_KINDS, Fragment, FragmentReader


@dataclass(frozen=True)
class Slice:
    """Elements [offset, offset + length) of the parameter `name`.

    They are elements [start, start + length) of the flattened `master`, the fp32 tensor that the optimizer updates.
    """

    name: str
    offset: int
    length: int
    master: Tensor
    start: int

    def of(self, tensor: Tensor) -> Tensor:
        """The slice of `master`, or of a moment that has its shape, as a 1-D view."""
        return tensor.detach().view(-1)[self.start : self.start + self.length]


def read_slices(slices: Iterable[Slice], optimizer: torch.optim.Optimizer) -> Iterator[Fragment]:
    """Yields fragments that are views of live memory. Before the first update the moments are zeros."""
    for piece in slices:
        weight = piece.of(piece.master)
        state = optimizer.state.get(piece.master)
        if state:
            exp_avg, exp_avg_sq = piece.of(state["exp_avg"]), piece.of(state["exp_avg_sq"])
        else:
            exp_avg, exp_avg_sq = torch.zeros_like(weight), torch.zeros_like(weight)
        yield Fragment(piece.name, piece.offset, weight, exp_avg, exp_avg_sq)


def make_moments(slices: Iterable[Slice], optimizer: torch.optim.Optimizer) -> None:
    """Allocates the zeros that AdamW would allocate in its first update, so that their memory is taken before it."""
    for piece in slices:
        if not optimizer.state.get(piece.master):
            optimizer.state[piece.master] = _blank_state(piece.master, num_updates=0)


def write_slices(slices: Iterable[Slice], optimizer: torch.optim.Optimizer, reader: FragmentReader) -> None:
    """Fills weights and moments slice by slice and sets AdamW's step count."""
    blanked: set[int] = set()
    for piece in slices:
        if id(piece.master) not in blanked:
            blanked.add(id(piece.master))
            optimizer.state[piece.master] = _blank_state(piece.master, reader.num_updates)
        tensors = {"weight": piece.master, **optimizer.state[piece.master]}
        for kind in FRAGMENT_KINDS:
            piece.of(tensors[kind]).copy_(reader.read(piece.name, kind, piece.offset, piece.length))


def _blank_state(master: Tensor, num_updates: int) -> dict[str, Tensor]:
    """AdamW's state of one tensor. Each has its own step tensor, since fused AdamW increments it in place."""
    return {
        "step": torch.tensor(float(num_updates), dtype=torch.float32, device=master.device),
        "exp_avg": torch.zeros_like(master, requires_grad=False),
        "exp_avg_sq": torch.zeros_like(master, requires_grad=False),
    }
