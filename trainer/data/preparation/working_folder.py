"""A hidden folder for work that takes long: one process at a time, and what is finished in it outlives a kill."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from trainer.errors import Unavailable, UserError
from trainer.files import is_locked, lock

_LOCK = "lock"


@contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Makes `folder`, or takes over what an earlier process left in it, and removes it at the end.

    Waits, with a message, while another process works in it; that lock is the kernel's and ends with the process. A
    file system without locks is trusted. After a mistake of the user the work can be of no further use, so the folder
    goes too; after every other failure, a dead network included, it stays for the next try.
    """
    # Renamed before it is removed, so that nobody finds half of it; removed after the lock is closed, as NFS keeps open
    # files.
    gone = folder.with_name(f".tmp-{os.getpid()}{folder.name}")
    try:
        with _locked(folder):
            for half_written in folder.glob(".tmp-*"):
                half_written.unlink()
            try:
                yield
            except Unavailable:
                raise
            except UserError:
                _empty(folder).rename(gone)
                raise
            _empty(folder).rename(gone)
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def _empty(folder: Path) -> Path:
    """Removes all but the lock; whoever is killed meanwhile leaves the folder, and the next process takes it over."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()
    return folder


def is_worked_in(folder: Path) -> bool:
    """Whether a live process works in `folder`; on a file system without locks none seems to."""
    with suppress(OSError):
        return is_locked(folder / _LOCK)
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / _LOCK).open("a")
        except (FileExistsError, FileNotFoundError):  # the other process removed the folder just now
            if folder.is_file():
                raise
            continue
        with file:
            lock(file, before_waiting=lambda: _print_waiting(folder))
            if _is_there(file, folder / _LOCK):
                yield
                return


def _print_waiting(folder: Path) -> None:
    print(f"waiting for another process, which works in {folder}", file=sys.stderr, flush=True)


def _is_there(file: IO[str], path: Path) -> bool:
    """Whether the locked file is still the one at `path`: the process before may have removed it with the folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
