"""A store: one filtered corpus, as token ids or as text, memory-mapped; complete or absent.

Shape suffixes: N pairs asked for, L their items.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.text.sentences import IntArray, Side, token_index
from trainer.files import publish_folder, write_atomically

TEXT_DTYPE = "uint8"

_MANIFEST = "manifest.json"
_SIDES = ("source", "target")
_FILES = tuple(f"{side}.{part}" for side in _SIDES for part in ("items", "offsets"))


def token_dtype(vocab_size: int) -> str:
    """The smallest numpy type that can hold every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class Manifest:
    """The description of a store.

    Items are tokens, eos included, or bytes of UTF-8 text. `rejected` counts by reason the pairs left out; `examples`
    has a few of each as [source, target]. `files` has [bytes, SHA-256] by name.
    """

    name: str
    kind: Literal["tokens", "text"]
    fingerprint: str
    num_pairs: int
    num_source_items: int
    num_target_items: int
    rejected: dict[str, int]
    examples: dict[str, list[list[str]]]
    dtype: str
    files: dict[str, list[Any]]

    @property
    def content(self) -> str:
        """A hash of the stored items, whatever files they were made from."""
        return hashlib.sha256("".join(self.files[name][1] for name in _FILES).encode()).hexdigest()


@dataclass(frozen=True)
class Table:
    """One language of a store: sentence n is `items[offsets[n]:offsets[n + 1]]`."""

    items: NDArray[Any]
    offsets: IntArray

    def gather(self, row_N: IntArray) -> Side:
        """The items of the rows, concatenated; tokens have eos at the end of each row."""
        start_N = self.offsets[row_N]
        length_N = self.offsets[row_N + 1] - start_N
        return Side(self.items[token_index(start_N, length_N)], length_N)

    def lengths(self, row_N: IntArray) -> IntArray:
        """length_N of the rows, in items; reads no item."""
        return self.offsets[row_N + 1] - self.offsets[row_N]

    def texts(self, row_N: IntArray) -> list[bytes]:
        """The rows of a text store in UTF-8."""
        side = self.gather(row_N)
        data, end_N = side.token_L.tobytes(), np.cumsum(side.length_N)
        return [data[start:end] for start, end in zip((end_N - side.length_N).tolist(), end_N.tolist(), strict=True)]


@dataclass(frozen=True)
class Store:
    """One corpus of the training data, ready to read at any row.

    It is pickled as its directory, so that other processes map the same files.
    """

    directory: Path
    manifest: Manifest
    source: Table
    target: Table

    @classmethod
    def open(cls, directory: Path) -> "Store | None":
        """The store in `directory`; None if it is missing or its files do not have the recorded sizes."""
        try:
            manifest = Manifest(**json.loads((directory / _MANIFEST).read_text()))
            sizes = {name: (directory / name).stat().st_size for name in _FILES}
        except (OSError, ValueError, TypeError):
            return None
        if any(manifest.files[name][0] != size for name, size in sizes.items()):
            return None
        return cls(directory, manifest, *(_map_side(directory, side, manifest.dtype) for side in _SIDES))

    def damage(self) -> list[str]:
        """The names of damaged files. Reads all files, about one second per GB."""
        return [name for name in _FILES if _checksum(self.directory / name) != self.manifest.files[name][1]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.directory,)


def read_ahead(stores: Sequence[Store]) -> None:
    """Asks the system to read the stores into memory in the background, unless they would fill more than half of it.

    Rows in shuffled order make a cold disk seek for each: the first step took 5 to 36 seconds with a store of 1 GB, but
    reading the whole store takes one (`tests/benchmarks/data_speed.py`).
    """
    paths = [store.directory / name for store in stores for name in _FILES]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(path.stat().st_size for path in paths) > memory // 2:
        return
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reopened(directory: Path) -> Store:
    store = Store.open(directory)
    assert store is not None, f"{directory} was open in another process"
    return store


def _map_side(directory: Path, side: str, dtype: str) -> Table:
    return Table(_map(directory / f"{side}.items", dtype), _map(directory / f"{side}.offsets", "int64"))


def _map(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    # asarray: slicing a plain array that shares the mapping is several times faster than slicing a memmap.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


class _ArrayFile:
    """A file that is appended to, and its checksum."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()

    def append(self, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values).tobytes()
        self._file.write(data)
        self._hash.update(data)

    def finish(self) -> list[Any]:
        """Returns [bytes, SHA-256] once the content has reached the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return [size, self._hash.hexdigest()]

    def abandon(self) -> None:
        """Closes without an error for content that is still in memory: on a full disk, writing it fails again."""
        with suppress(OSError):
            self._file.close()


class StoreWriter:
    """Appends pairs to the files of a store that is not visible yet, see `writing_store`."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self.num_pairs = 0
        self._directory, self._dtype = directory, dtype
        self._num_items = dict.fromkeys(_SIDES, 0)
        self._files = {name: _ArrayFile(directory / name) for name in _FILES}
        for side in _SIDES:
            self._files[f"{side}.offsets"].append(np.zeros(1, np.int64))

    def append(self, source: Side, target: Side) -> None:
        """Adds pairs: tokens with eos at the end of each sentence, or the bytes of their text."""
        assert len(source.length_N) == len(target.length_N)
        self.num_pairs += len(source.length_N)
        for name, side in zip(_SIDES, (source, target), strict=True):
            self._files[f"{name}.items"].append(side.token_L.astype(self._dtype, copy=False))
            self._files[f"{name}.offsets"].append(self._num_items[name] + np.cumsum(side.length_N, dtype=np.int64))
            self._num_items[name] += len(side.token_L)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.abandon()

    def finish(
        self, name: str, fingerprint: str, rejected: dict[str, int], examples: dict[str, list[list[str]]]
    ) -> Manifest:
        """Completes the files and then writes the manifest next to them."""
        manifest = Manifest(
            name=name,
            kind="text" if self._dtype == TEXT_DTYPE else "tokens",
            fingerprint=fingerprint,
            num_pairs=self.num_pairs,
            num_source_items=self._num_items["source"],
            num_target_items=self._num_items["target"],
            rejected=rejected,
            examples=examples,
            dtype=self._dtype,
            files={file_name: file.finish() for file_name, file in self._files.items()},
        )
        write_atomically(self._directory / _MANIFEST, json.dumps(asdict(manifest), indent=1))
        return manifest


@contextmanager
def writing_store(directory: Path, dtype: str) -> Iterator[StoreWriter]:
    """A writer whose store appears as `directory` at the end of the block, unless the block raises.

    `dtype` is the type of the items: `TEXT_DTYPE` makes a text store, any other a token store. Only one process at a
    time may write a store; this removes what an earlier one left half-written.
    """
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with StoreWriter(temporary, dtype) as writer:
            yield writer
        shutil.rmtree(directory, ignore_errors=True)
        publish_folder(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
