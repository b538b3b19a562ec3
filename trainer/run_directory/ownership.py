"""Which process owns a run directory: at most one training or preparation at a time."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.files import is_locked, locked
from trainer.run_directory.layout import OWNER
from trainer.run_directory.state import read_state
from trainer.run_directory.watchdog import SECONDS_BETWEEN_HEARTBEATS, read_heartbeats

_SECONDS_TO_LOCK = 1.0  # `find_owner` takes the lock for a moment
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_SILENCE = 600.0  # after which a rank is dead, however wrong the clocks are


@contextmanager
def owning(directory: str | Path) -> Iterator[None]:
    """Keeps every other training and preparation out of a run directory during the block.

    The lock is the kernel's and ends with the process in any case. Raises UserError, which names the owner, if another
    process holds it. Some cluster file systems have no locks, or none that other machines see: against that
    `refuse_if_trained_elsewhere` looks at heartbeats.
    """
    path = Path(directory) / OWNER
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, _SECONDS_TO_LOCK))
        except BlockingIOError as error:
            raise _in_use(directory, path.read_text(encoding="utf-8").strip()) from error
        file.truncate(0)
        file.write(f"{process_name(os.getpid(), socket.gethostname())}\n")
        file.flush()
        yield


def find_owner(directory: str | Path) -> str | None:
    """The process that holds the run directory now, None if there is none whose lock this machine can see.

    Raises OSError if the file system has no locks.
    """
    path = Path(directory) / OWNER
    if not is_locked(path):
        return None
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip() or "a process"
    return None


def process_name(pid: int, host: str) -> str:
    """How messages and the file `owner` name a process."""
    return f"process {pid} on {host}"


def refuse_if_trained_elsewhere(directory: Path) -> None:
    """Raises UserError if ranks on other machines still write heartbeats; their lock may not be visible here.

    Watches a run whose last state is `training` for 25 s, longer than a heartbeat takes. What counts is that the
    heartbeats change, since clocks differ.
    """
    if (read_state(directory) or {}).get("state") != "training":
        return
    first = _beats_elsewhere(directory)
    deadline = time.monotonic() + 2.5 * SECONDS_BETWEEN_HEARTBEATS
    while first and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        beating = [beat for rank, beat in _beats_elsewhere(directory).items() if beat != first.get(rank)]
        if beating:
            raise _in_use(directory, process_name(beating[0].get("pid", 0), beating[0]["host"]))


def _beats_elsewhere(directory: Path) -> dict[int, dict[str, Any]]:
    """The heartbeats of ranks on other machines that may be alive."""
    oldest, here = time.time() - _SECONDS_OF_SILENCE, socket.gethostname()
    beats = read_heartbeats(directory).items()
    return {rank: beat for rank, beat in beats if beat.get("host", here) != here and beat["time"] > oldest}


def _in_use(directory: str | Path, owner: str) -> UserError:
    return UserError(
        f"the run directory {directory} is in use by {owner}: stop that training first, or name another "
        "`run.directory`."
    )
