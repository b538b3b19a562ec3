"""The token store: one corpus as token ids, memory-mapped, complete or not there at all.

Shape suffixes: N pairs asked for, L their tokens.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.sentences import IntArray, token_index
from trainer.errors import UserError

_MANIFEST = "manifest.json"
_FILES = ("source.tokens", "source.offsets", "target.tokens", "target.offsets")


@dataclass(frozen=True)
class Manifest:
    """What a store holds. Tokens count eos; `rejected` counts pairs by reason; `files` has [bytes, SHA-256] by name."""

    name: str
    fingerprint: str
    num_pairs: int
    num_source_tokens: int
    num_target_tokens: int
    rejected: dict[str, int]
    dtype: str
    files: dict[str, list[Any]]

    @property
    def content(self) -> str:
        """A hash of the stored tokens, whatever files they came from."""
        return hashlib.sha256("".join(self.files[name][1] for name in _FILES).encode()).hexdigest()


@dataclass(frozen=True)
class TokenTable:
    """One side: pair n is `tokens[offsets[n]:offsets[n + 1]]`, eos at its end."""

    tokens: NDArray[Any]
    offsets: IntArray

    def gather(self, row_N: IntArray) -> tuple[NDArray[Any], IntArray]:
        """tokens_L of the rows, one after the other, and length_N."""
        start_N = self.offsets[row_N]
        length_N = self.offsets[row_N + 1] - start_N
        return self.tokens[token_index(start_N, length_N)], length_N


@dataclass(frozen=True)
class Store:
    """One corpus of the training data, ready to read at any row."""

    manifest: Manifest
    source: TokenTable
    target: TokenTable

    @classmethod
    def open(cls, directory: Path) -> "Store | None":
        """The store in `directory`, or None where there is none or its files have not the recorded sizes."""
        try:
            manifest = Manifest(**json.loads((directory / _MANIFEST).read_text()))
            sizes = {name: (directory / name).stat().st_size for name in _FILES}
        except (OSError, ValueError, TypeError):
            return None
        if any(manifest.files[name][0] != size for name, size in sizes.items()):
            return None
        return cls(manifest, *(_map_side(directory, side, manifest.dtype) for side in ("source", "target")))


def _map_side(directory: Path, side: str, dtype: str) -> TokenTable:
    # asarray: slicing a plain array that shares the mapping is several times faster than slicing a memmap.
    tokens = np.asarray(np.memmap(directory / f"{side}.tokens", dtype=dtype, mode="r"))
    return TokenTable(tokens, np.asarray(np.memmap(directory / f"{side}.offsets", dtype=np.int64, mode="r")))


class _TokenFile:
    """Appends to one file and keeps its size and checksum."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()

    def append(self, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values).tobytes()
        self._file.write(data)
        self._hash.update(data)

    def finish(self) -> list[Any]:
        """[bytes, SHA-256], with the bytes safely on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return [size, self._hash.hexdigest()]

    def abandon(self) -> None:
        """Closes without caring for what is still in memory: on a full disk, writing it fails again."""
        with suppress(OSError):
            self._file.close()


class StoreWriter:
    """Appends pairs to the files of a store that nobody can see yet: see `writing_store`."""

    def __init__(self, directory: Path, dtype: str) -> None:
        self.dtype = dtype
        self.num_pairs = 0
        self.num_tokens = [0, 0]
        self._directory = directory
        self._files = {name: _TokenFile(directory / name) for name in _FILES}
        for side in ("source", "target"):
            self._files[f"{side}.offsets"].append(np.zeros(1, np.int64))

    def append(self, sources: list[list[int]], targets: list[list[int]]) -> None:
        """Adds pairs of token ids, eos at the end of each."""
        self.num_pairs += len(sources)
        for i, (side, sentences) in enumerate((("source", sources), ("target", targets))):
            end_N = np.cumsum([len(sentence) for sentence in sentences], dtype=np.int64) + self.num_tokens[i]
            flat = np.fromiter((t for sentence in sentences for t in sentence), self.dtype)
            self.num_tokens[i] += len(flat)
            self._files[f"{side}.tokens"].append(flat)
            self._files[f"{side}.offsets"].append(end_N)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.abandon()

    def finish(self, name: str, fingerprint: str, rejected: dict[str, int]) -> Manifest:
        """Completes the files and writes the manifest beside them, last."""
        files = {file_name: file.finish() for file_name, file in self._files.items()}
        manifest = Manifest(
            name, fingerprint, self.num_pairs, self.num_tokens[0], self.num_tokens[1], rejected, self.dtype, files
        )
        with (self._directory / _MANIFEST).open("w") as file:
            json.dump(asdict(manifest), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        return manifest


def publish_file(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all. Raises UserError where the disk is full."""
    temporary = path.with_name(f".tmp-{path.name}")
    with _full_disk_is_told(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_store(directory: Path, vocab_size: int) -> Iterator[StoreWriter]:
    """A writer whose store appears as `directory` when the block ends well, and leaves nothing where it does not.

    One process at a time may write a store; what an earlier one left half-written of it is removed.
    Raises UserError where the disk is full.
    """
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    with _full_disk_is_told(directory.parent):
        try:
            temporary.mkdir(parents=True)
            with StoreWriter(temporary, "uint16" if vocab_size <= 1 << 16 else "uint32") as writer:
                yield writer
            shutil.rmtree(directory, ignore_errors=True)
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _full_disk_is_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left in {folder}: free some, or set `data.cache` to a folder on another disk."
        ) from error
