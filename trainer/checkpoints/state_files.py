"""The sharded state on disk: flat pieces of weights and Adam moments, readable by any number of ranks of any engine.

Each rank writes one safetensors file with three 1-D fp32 tensors (`weight`, `exp_avg`, `exp_avg_sq`): its fragments
laid end to end. The file's metadata lists them as [parameter name, offset in the flattened parameter, length].
Nothing in it depends on how many ranks there were or which engine ran, and there is no pickle in it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.engine.base import FRAGMENT_KINDS, Fragment, FragmentKind
from trainer.run_directory.layout import CHECKPOINT_STATE, rank_name

_SUFFIX, _INDEX = ".safetensors", "fragments"


@contextmanager
def _one_thread() -> Iterator[None]:
    """One core can saturate the memory, while threads wait for each other at the end of each of hundreds of copies:
    where other processes wanted the cores, that made the copy of 63 million parameters six times slower."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


class HostCopy:
    """A rank's fragments as they were at one moment, in host memory that every save uses again: 12 bytes a parameter.

    On CUDA the memory is pinned, so that the copy runs at the speed of the bus.
    """

    def __init__(self) -> None:
        self._index: list[list[Any]] = []
        self._flat: dict[str, Tensor] = {}

    def take(self, fragments: Iterable[Fragment]) -> None:
        """Copies the fragments; when it returns, training may go on and change them."""
        pieces = list(fragments)
        self._index = [[piece.name, piece.offset, piece.length] for piece in pieces]
        self.make_room(pieces)
        with _one_thread():
            for kind, flat in self._flat.items():
                parts = flat.split([piece.length for piece in pieces])
                for part, piece in zip(parts, pieces, strict=True):
                    part.copy_(getattr(piece, kind), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def make_room(self, pieces: Sequence[Fragment]) -> None:
        """Takes the memory for fragments of these lengths, unless it has: 2.6 GB, pinned, take over a second, for which
        the first save would let training wait. Raises RuntimeError where there is too little."""
        size = sum(piece.length for piece in pieces)
        if self._flat and self._flat[FRAGMENT_KINDS[0]].numel() == size:
            return
        pinned = any(piece.weight.is_cuda for piece in pieces)
        # Filled, because the system hands a page out when it is first written to.
        self._flat = {kind: torch.empty(size, pin_memory=pinned).fill_(0.0) for kind in FRAGMENT_KINDS}

    def write(self, directory: Path, rank: int, world_size: int) -> Path:
        """Writes the rank's file into `directory`/state and returns its path. Raises OSError or SafetensorError."""
        path = directory / CHECKPOINT_STATE / f"{rank_name(rank)}-of-{world_size:05d}{_SUFFIX}"
        save_file(self._flat, path, metadata={_INDEX: json.dumps(self._index)})
        return path


def is_fragment_file(path: Path) -> bool:
    """Whether a file's name and header are those of a rank's file; nothing in it is run, whatever it is."""
    if path.suffix != _SUFFIX:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == set(FRAGMENT_KINDS) and _INDEX in (file.metadata() or {})
    except SafetensorError:
        return False


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
        self._files: dict[Path, Any] = {}
        self._paths = sorted((checkpoint / CHECKPOINT_STATE).glob(f"*{_SUFFIX}"))

    @cached_property
    def _pieces(self) -> dict[str, list[_Piece]]:
        pieces: dict[str, list[_Piece]] = {}
        for path in self._paths:
            index = json.loads(self._open(path).metadata()[_INDEX])
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
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0)

    def _slice(self, piece: _Piece, kind: FragmentKind, low: int, high: int) -> Tensor:
        first = piece.start + low - piece.offset
        return self._open(piece.path).get_slice(kind)[first : first + high - low]

    def _open(self, path: Path) -> Any:
        """Each file once, because a model has hundreds of parameters."""
        if path not in self._files:
            self._files[path] = safe_open(path, framework="pt")
        return self._files[path]
