"""Files of a corpus: finds them by path, glob or address, opens, decompresses and identifies them."""

import bz2
import errno
import glob
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NoReturn, cast

import zstandard

from trainer.data.corpora.archives import refuse_archive_names, refuse_archives
from trainer.data.corpora.remote_files import (
    check_protocol,
    find_remote_files,
    is_lasting,
    is_missing,
    is_remote,
    open_remote_file,
    remote_file_identity,
)
from trainer.errors import Unavailable, UserError, error_line

_READ_BYTES = 1 << 16
# Errors of a disk, a network file system or a full memory that may have passed at the next start.
_PASSING = {errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT, errno.ENFILE, errno.EMFILE}
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    # Without this limit a file that `zstd --long=28` or above compressed is refused.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}
COMPRESSED_SUFFIXES = tuple(_DECOMPRESSORS)


class CutOff(UserError):
    """A compressed file that ends early."""

    def __init__(self, path: str, place: str = "") -> None:
        super().__init__(f"{path} is cut off{place}: its compressed data ends early, so fetch or compress it again.")


def find_files(pattern: str) -> list[str]:
    """The files of a path, glob or address, in sorted order; a local file of exactly that name is no glob.

    Raises UserError if there is none, or one that cannot be read.
    """
    if not is_remote(pattern):
        return _find_local_files(pattern)
    with naming(pattern):
        paths = find_remote_files(pattern) or _refuse_pattern(pattern)
    for path in paths:
        refuse_archive_names(path)
    return paths


def check_files(pattern: str) -> None:
    """Raises UserError for missing files, archives and a protocol without its package. Asks no network."""
    if not is_remote(pattern):
        _find_local_files(pattern)
        return
    refuse_archive_names(pattern)
    with naming(pattern):
        check_protocol(pattern)


def open_file(path: str) -> BinaryIO:
    """Opens one file for its bytes as they are stored. A remote file is fetched while it is read."""
    return cast(BinaryIO, open_remote_file(path)) if is_remote(path) else open(path, "rb")


def read_bytes(path: str) -> Iterator[bytes]:
    """Yields the content of one file, decompressed if its name ends in .gz, .bz2, .xz or .zst.

    Raises UserError, which names the file, if it is an archive or cannot be read to its end.
    """
    with naming(path), open_file(path) as file:
        pieces = iter(lambda: file.read(_READ_BYTES), b"")
        new_decompressor = _DECOMPRESSORS.get(_suffix(path))
        yield from refuse_archives(path, _decompress(pieces, new_decompressor) if new_decompressor else pieces)


def file_identity(path: str) -> list[Any]:
    """Returns path, size and modification time (or what a remote store has instead), as a value for JSON."""
    with naming(path):
        if is_remote(path):
            return remote_file_identity(path)
        stat = os.stat(path)
        return [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns every error in the block into a UserError that names the file: Unavailable if the error may pass."""
    try:
        yield
    except UserError:
        raise
    except EOFError:
        raise CutOff(path) from None
    except ImportError as error:
        raise UserError(
            f"{path} needs a package that is not installed: {error_line(error, with_type=False)}."
        ) from error
    except Exception as error:
        # Every decompressor and every protocol has exceptions of its own.
        if is_missing(error):
            raise UserError(f"the file {path} does not exist: correct its path.") from None
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        if _may_pass(error, path):
            raise Unavailable(
                f"{path} cannot be read: {error_line(cause, with_type=False)}; start again when it can be reached."
            ) from error
        raise UserError(f"{path} cannot be read: {error_line(cause, with_type=False)}.") from error


def _may_pass(error: Exception, path: str) -> bool:
    if is_remote(path):
        return not is_lasting(error)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)


def _find_local_files(pattern: str) -> list[str]:
    paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not paths and glob.has_magic(pattern):
        _refuse_pattern(pattern)
    for path in paths or [pattern]:
        if not os.path.isfile(path):
            raise UserError(f"the corpus file {path} does not exist (or is no file): correct its path.")
        if not os.access(path, os.R_OK):
            raise UserError(f"the corpus file {path} may not be read by this user: change its permissions.")
        refuse_archive_names(path)
    return paths


def _refuse_pattern(pattern: str) -> NoReturn:
    raise UserError(f"no corpus file matches {pattern}: correct the pattern.")


def _suffix(path: str) -> str:
    name = path.split("::")[0]
    return PurePosixPath(name.partition("?")[0] if is_remote(name) else name).suffix.lower()


def _decompress(pieces: Iterable[bytes], new_decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """Yields the content of one or more compressed streams in a row, possibly with zeros between them.

    Raises EOFError if the last one is incomplete, which the reader of `zstandard` does not notice.
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
