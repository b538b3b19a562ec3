"""Files that are complete or absent, locks between processes, and JSON lines. Standard library only."""

import errno
import fcntl
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

_SECONDS_BETWEEN_TRIES = 0.05


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Writes the whole file or nothing; a reader sees the old content or the new. Text is written as UTF-8.

    With `durable` the file also survives a power failure once this returns. Raises OSError; the old file then stays.
    """
    with writing_atomically(path, durable=durable) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def writing_atomically(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` at the end of the block, unless the block raises. See `write_atomically`."""
    # The name is unique among threads and machines, since several may write the same file at once.
    temporary = path.with_name(f".tmp-{socket.gethostname()}-{threading.get_native_id()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def sync(path: Path) -> Path:
    """Returns the path of a file or folder once its content has reached the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
    return path


def publish_folder(temporary: Path, final: Path) -> None:
    """Renames a finished folder to its final name, after everything in it has reached the disk. Raises OSError."""
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file with one on each line, in order; empty if the file cannot be read.

    Leaves out lines that are not valid, such as one that a kill cut short.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return []
    return [record for _, record in json_lines(content)]


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Adds an object to a file with one on each line, in one write, after a line that was cut short too.

    Several processes may append at once. Raises OSError.
    """
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def json_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each complete line that holds a JSON object: its bytes, newline included, and the object."""
    # Split at newlines only: texts may contain the other line separators of Unicode.
    for line in content.split(b"\n")[:-1]:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield line + b"\n", record


def lock(file: IO[Any], seconds: float = math.inf, before_waiting: Callable[[], None] = lambda: None) -> None:
    """Takes the kernel's exclusive lock on an open file. It ends when the file is closed or the process ends.

    If another process holds it, calls `before_waiting` and waits up to `seconds`, then raises BlockingIOError. On a
    file system without locks this returns without one.
    """
    with suppress(BlockingIOError):
        return _try_to_lock(file)
    before_waiting()
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _try_to_lock(file)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)


def _try_to_lock(file: IO[Any]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # no locks on this file system
        return


@contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[IO[str]]:
    """Holds the lock on the file `path`, which is made if it is missing, during the block. See `lock`."""
    with path.open("a+", encoding="utf-8") as file:
        lock(file, seconds)
        yield file


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on `path`; false if there is no such file.

    Raises OSError if the file system has no locks.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
