"""A hidden folder for long work: used by one process at a time, and finished work in it survives a kill."""

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

    While another process uses it, prints a message and waits; the lock ends with its process. On a file system without
    locks nothing is locked. After a UserError the work is useless, so the folder is removed as well; after any other
    failure, Unavailable included, it stays for the next try.
    """
    # Renamed first, so that no process finds half of it; removed after the lock is closed, as NFS keeps open files.
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
    """Removes all files but the lock. If this is killed meanwhile, the next process takes the folder over."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()
    return folder


def is_worked_in(folder: Path) -> bool:
    """Whether a live process works in `folder`; false on a file system without locks."""
    with suppress(OSError):
        return is_locked(folder / _LOCK)
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / _LOCK).open("a")
        except (FileExistsError, FileNotFoundError):  # another process removed the folder just now
            if folder.is_file():
                raise
            continue
        with file:
            lock(file, before_waiting=lambda: _print_waiting(folder))
            if _is_there(file, folder / _LOCK):
                yield
                return


def _print_waiting(folder: Path) -> None:
    print(f"waiting for another process that works in {folder}", file=sys.stderr, flush=True)


def _is_there(file: IO[str], path: Path) -> bool:
    """Whether the locked file is still the one at `path`: the process before may have removed it with the folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
