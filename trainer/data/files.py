"""Files by path, glob or fsspec address: found, opened, decompressed, and told apart from what they were before."""

import bz2
import glob
import io
import lzma
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar

import fsspec
import zstandard

from trainer.errors import UserError

_READ_BYTES = 1 << 16
# Five tries of five seconds outlast a hiccup of the network and still end.
_TRIES = 5
_SECONDS_BETWEEN_TRIES = 5.0
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
# What a file system may call the mark that changes with a file's content.
_MARKS = ("etag", "md5", "blob_id", "sha256", "mtime", "lastmodified", "updated", "created")

Result = TypeVar("Result")


def is_remote(path: str) -> bool:
    """Whether a path is an fsspec address such as `s3://bucket/key`."""
    return "://" in path


def find_files(pattern: str) -> list[str]:
    """The files of a path, glob or address, in sorted order; a local file of exactly that name is no glob.

    Raises UserError where there is none, or one that cannot be read.
    """
    if not is_remote(pattern):
        return _local_files(pattern)
    with naming(pattern):
        if not any(mark in pattern for mark in "*["):  # a question mark begins the query of an address
            return [pattern]
        system, path = _file_system(pattern)
        found = sorted(system.unstrip_protocol(name) for name in _patiently(lambda: system.glob(path)))
    return found or _nothing_matches(pattern)


def check_files(pattern: str) -> None:
    """Raises UserError for what can be told without a network: missing files, or a protocol without its package."""
    if is_remote(pattern):
        with naming(pattern):
            fsspec.get_filesystem_class(pattern.split("://")[0].split("::")[-1])
    else:
        _local_files(pattern)


def open_file(path: str) -> IO[bytes]:
    """The bytes of one file as they are stored; of a remote one they are fetched as they are read."""
    if not is_remote(path):
        return open(path, "rb")
    system, name = _file_system(path)
    return io.BufferedReader(_PatientFile(_patiently(lambda: system.open(name, "rb"))), _READ_BYTES)


def read_bytes(path: str) -> Iterator[bytes]:
    """One file in pieces, decompressed where its name ends in .gz, .bz2, .xz or .zst.

    Raises UserError, naming the file, for what cannot be read to its end.
    """
    with naming(path), open_file(path) as file:
        pieces = iter(lambda: file.read(_READ_BYTES), b"")
        new_decompressor = _DECOMPRESSORS.get(_suffix(path))
        yield from _decompress(pieces, new_decompressor) if new_decompressor else pieces


def file_identity(path: str) -> list[Any]:
    """Place, size and what changes with the content: the modification time, or the mark a remote store gives."""
    if not is_remote(path):
        stat = os.stat(path)
        return [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]
    with naming(path):
        system, name = _file_system(path)
        info = _patiently(lambda: system.info(name))
    marks = {key.lower().replace("_", ""): str(value) for key, value in info.items()}
    return [path, info.get("size"), *(marks[mark] for mark in (m.replace("_", "") for m in _MARKS) if mark in marks)]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns whatever goes wrong with a file into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except EOFError:
        raise UserError(f"{path} is cut off: its compressed data ends early, so fetch or compress it again.") from None
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed: {first_line(error)}.") from error
    except FileNotFoundError:
        raise UserError(f"the corpus file {path} does not exist: correct its path.") from None
    except Exception as error:
        # Every decompressor and every protocol has exceptions of its own.
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error


def first_line(error: BaseException) -> str:
    """What an exception says, fit to end a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def _local_files(pattern: str) -> list[str]:
    paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not paths and glob.has_magic(pattern):
        _nothing_matches(pattern)
    for path in paths or [pattern]:
        if not os.path.isfile(path):
            raise UserError(f"the corpus file {path} does not exist (or is no file): correct its path.")
        if not os.access(path, os.R_OK):
            raise UserError(f"the corpus file {path} may not be read by this user: change its permissions.")
    return paths


def _nothing_matches(pattern: str) -> list[str]:
    raise UserError(f"no corpus file matches {pattern}: correct the pattern.")


def _file_system(path: str) -> tuple[Any, str]:
    options: dict[str, Any] = {}
    if path.startswith(("http://", "https://")):
        # Proxies from the environment; and a server must not decompress, or compress, behind our back.
        options = {"client_kwargs": {"trust_env": True}, "headers": {"Accept-Encoding": "identity"}}
    return fsspec.core.url_to_fs(path, **options)


def _suffix(path: str) -> str:
    name = path.split("::")[0]
    return PurePosixPath(name.partition("?")[0] if is_remote(name) else name).suffix.lower()


def _decompress(pieces: Iterable[bytes], new_decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """The content of one or more compressed streams, one after another, maybe with zeros between them.

    Raises EOFError where the last one is not complete; `zstandard`'s own reader would not notice.
    """
    stream = None
    for piece in pieces:
        while piece := piece if stream else piece.lstrip(b"\0"):
            stream = stream or new_decompressor()
            yield stream.decompress(piece)
            piece = stream.unused_data
            if stream.eof:
                stream = None
    if stream:
        raise EOFError


def _patiently(action: Callable[[], Result]) -> Result:
    """The result of asking a remote store, asked again after a while when the network fails."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return action()
        except (FileNotFoundError, PermissionError, NotImplementedError, ImportError):
            raise
        except Exception:
            # Every protocol has exceptions of its own.
            if not tries_left:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
    raise AssertionError("the last try returns or raises")


class _PatientFile(io.RawIOBase):
    """A remote file whose reads are tried again; fsspec moves its position only after a read that went well."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        data = _patiently(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
