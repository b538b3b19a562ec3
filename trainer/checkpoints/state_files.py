"""The sharded state on disk: flat pieces of weights and Adam moments, readable by any number of ranks of any engine.

Each rank writes one safetensors file with three 1-D fp32 tensors (`weight`, `exp_avg`, `exp_avg_sq`): its fragments,
concatenated. The file's metadata lists them as [parameter name, offset in the flattened parameter, length].
The format depends neither on the number of ranks nor on the engine, and contains no pickle.
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
    """Copies with one thread. One core can saturate the memory, while several wait for each other after each of
    hundreds of copies: next to other busy processes, copying 63 million parameters then took six times as long."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


class HostCopy:
    """A copy of a rank's fragments in host memory, 12 bytes per parameter, which every save reuses.

    On CUDA the memory is pinned, so that copying runs at the speed of the bus.
    """

    def __init__(self) -> None:
        self._index: list[list[Any]] = []
        self._flat: dict[str, Tensor] = {}

    def take(self, fragments: Iterable[Fragment]) -> None:
        """Copies the fragments; when this returns, training may change them. Raises RuntimeError as `make_room`."""
        taken = list(fragments)
        self._index = [[fragment.name, fragment.offset, fragment.length] for fragment in taken]
        self.make_room(taken)
        with _one_thread():
            for kind, flat in self._flat.items():
                slices = flat.split([fragment.length for fragment in taken])
                for target, fragment in zip(slices, taken, strict=True):
                    target.copy_(getattr(fragment, kind), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def make_room(self, fragments: Sequence[Fragment]) -> None:
        """Allocates the memory for fragments of these lengths, unless it is there. Raises RuntimeError if it cannot.

        To pin 2.6 GB takes over a second, for which the first save would make training wait.
        """
        size = sum(fragment.length for fragment in fragments)
        if self._flat and self._flat[FRAGMENT_KINDS[0]].numel() == size:
            return
        pinned = any(fragment.weight.is_cuda for fragment in fragments)
        # Filled, because the system provides a page only when it is first written to.
        self._flat = {kind: torch.empty(size, pin_memory=pinned).fill_(0.0) for kind in FRAGMENT_KINDS}

    def write(self, directory: Path, rank: int, world_size: int) -> Path:
        """Writes the rank's file into the folder `state` of `directory`. Returns its path. Raises OSError or
        SafetensorError."""
        path = directory / CHECKPOINT_STATE / f"{rank_name(rank)}-of-{world_size:05d}{_SUFFIX}"
        save_file(self._flat, path, metadata={_INDEX: json.dumps(self._index)})
        return path


def is_fragment_file(path: Path) -> bool:
    """Whether a file has the name and the header of a rank's file. Never executes anything in it."""
    if path.suffix != _SUFFIX:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == set(FRAGMENT_KINDS) and _INDEX in (file.metadata() or {})
    except SafetensorError:
        return False


@dataclass(frozen=True)
class _StoredFragment:
    """Elements [offset, offset + length) of a parameter, which start at element `start` of the tensors in `path`."""

    path: Path
    start: int
    offset: int
    length: int


class FragmentFiles:
    """Reads any slice of any parameter from the files of all ranks, `paths`; reads only the bytes asked for."""

    def __init__(self, paths: Sequence[Path], num_updates: int):
        self.num_updates = num_updates
        self._paths = paths
        self._files: dict[Path, Any] = {}

    @cached_property
    def _fragments(self) -> dict[str, list[_StoredFragment]]:
        """The fragments of each parameter in order of offset."""
        found: dict[str, list[_StoredFragment]] = {}
        for path in self._paths:
            index = json.loads(self._open(path).metadata()[_INDEX])
            start = 0
            for name, offset, length in index:
                found.setdefault(name, []).append(_StoredFragment(path, start, offset, length))
                start += length
        for fragments in found.values():
            fragments.sort(key=lambda fragment: fragment.offset)
        return found

    @property
    def names(self) -> list[str]:
        """The names of all parameters, sorted."""
        return sorted(self._fragments)

    def numel(self, name: str) -> int:
        """Number of elements of the whole parameter."""
        last = self._fragments[name][-1]
        return last.offset + last.length

    def read(self, name: str, kind: FragmentKind, offset: int, length: int) -> Tensor:
        """Elements [offset, offset + length) of the flattened parameter or moment: 1-D, fp32, CPU.

        Raises ValueError if the state has no such elements, because it is that of another model.
        """
        end, slices, reached = offset + length, [], offset
        for fragment in self._fragments.get(name, []):
            low, high = max(reached, fragment.offset), min(end, fragment.offset + fragment.length)
            if low == reached < high:
                slices.append(self._slice(fragment, kind, low, high))
                reached = high
        if reached != end:
            raise ValueError(f"the checkpoint has no elements {reached} to {end} of `{name}` ({kind})")
        if len(slices) == 1:
            return slices[0]
        return torch.cat(slices) if slices else torch.empty(0)

    def _slice(self, fragment: _StoredFragment, kind: FragmentKind, low: int, high: int) -> Tensor:
        first = fragment.start + low - fragment.offset
        return self._open(fragment.path).get_slice(kind)[first : first + high - low]

    def _open(self, path: Path) -> Any:
        """Opens each file once, because a model has hundreds of parameters."""
        if path not in self._files:
            self._files[path] = safe_open(path, framework="pt")
        return self._files[path]
