"""The sharded state on disk: flat pieces of weights and Adam moments, readable by any number of ranks of any engine.

Each rank writes one safetensors file with three 1-D fp32 tensors (`weight`, `exp_avg`, `exp_avg_sq`): its fragments
laid end to end. The file's metadata lists them as [parameter name, offset in the flattened parameter, length].
Nothing in it depends on how many ranks there were or which engine ran, and there is no pickle in it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.engine.base import FRAGMENT_KINDS, Fragment, FragmentKind

STATE_DIRECTORY = "state"


def write_fragments(directory: Path, rank: int, world_size: int, fragments: Iterable[Fragment]) -> Path:
    """Writes one rank's file into `directory`/state and returns its path. Raises OSError or SafetensorError."""
    pieces = list(fragments)
    flat: dict[str, Tensor] = {
        kind: torch.cat([getattr(piece, kind).detach().cpu() for piece in pieces]) for kind in FRAGMENT_KINDS
    }
    index = [[piece.name, piece.offset, piece.length] for piece in pieces]
    path = directory / STATE_DIRECTORY / f"rank-{rank:05d}-of-{world_size:05d}.safetensors"
    save_file(flat, path, metadata={"fragments": json.dumps(index)})
    return path


@dataclass(frozen=True)
class _Piece:
    """Where a stretch of a parameter lies: elements [offset, offset + length) start at `start` in `path`."""

    path: Path
    start: int
    offset: int
    length: int


class FragmentFiles:
    """Reads any slice of any parameter from the files of all ranks, touching only the bytes asked for."""

    def __init__(self, checkpoint: Path, num_updates: int):
        self.num_updates = num_updates
        self._paths = sorted((checkpoint / STATE_DIRECTORY).glob("*.safetensors"))

    @cached_property
    def _pieces(self) -> dict[str, list[_Piece]]:
        pieces: dict[str, list[_Piece]] = {}
        for path in self._paths:
            with safe_open(path, framework="pt") as file:
                index = json.loads(file.metadata()["fragments"])
            start = 0
            for name, offset, length in index:
                pieces.setdefault(name, []).append(_Piece(path, start, offset, length))
                start += length
        for stretch in pieces.values():
            stretch.sort(key=lambda piece: piece.offset)
        return pieces

    @property
    def names(self) -> list[str]:
        return sorted(self._pieces)

    def numel(self, name: str) -> int:
        """Number of elements of the whole parameter."""
        last = self._pieces[name][-1]
        return last.offset + last.length

    def read(self, name: str, kind: FragmentKind, offset: int, length: int) -> Tensor:
        """Elements [offset, offset + length) of the flattened parameter or moment: 1-D, fp32, CPU.

        Raises ValueError where the state holds no such elements (another model's checkpoint).
        """
        end, parts, reached = offset + length, [], offset
        for piece in self._pieces.get(name, []):
            low, high = max(reached, piece.offset), min(end, piece.offset + piece.length)
            if low == reached < high:
                parts.append(self._slice(piece, kind, low, high))
                reached = high
        if reached != end:
            raise ValueError(f"the checkpoint has no elements {reached} to {end} of `{name}` ({kind})")
        return torch.cat(parts) if parts else torch.empty(0)

    def _slice(self, piece: _Piece, kind: FragmentKind, low: int, high: int) -> Tensor:
        first = piece.start + low - piece.offset
        with safe_open(piece.path, framework="pt") as file:
            return file.get_slice(kind)[first : first + high - low]
