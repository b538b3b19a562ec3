"""How a failure is told: a sentence and status 2 for what the user can mend, a traceback for what only we can."""

import errno
import os
import traceback
from dataclasses import dataclass

from trainer.errors import OutOfMemory, ProcessDied, UserError, lost_peer

USER_ERROR, DEFECT, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on from the newest checkpoint


@dataclass(frozen=True)
class Failure:
    """The exit status of a command that failed, and what to print on stderr (nothing where it is empty).

    `start_again`: the same start mends it, without a human. `lost_peer`: another rank has the cause.
    """

    status: int
    message: str
    start_again: bool = False
    lost_peer: bool = False


def explain(error: BaseException) -> Failure:
    """What to tell of an exception that ended a command or a worker."""
    if isinstance(error, UserError):
        return Failure(TRY_AGAIN if isinstance(error, ProcessDied) else USER_ERROR, f"dragoman: {error}")
    if isinstance(error, OutOfMemory):
        return Failure(
            TRY_AGAIN,
            f"dragoman: rank {os.environ.get('RANK', '0')} ran out of memory ({error}); the next start goes on from "
            "the newest checkpoint and computes each micro-batch in twice as many parts. A smaller `data.max_tokens` "
            "avoids it.",
            start_again=True,
        )
    if isinstance(error, KeyboardInterrupt):
        return Failure(INTERRUPTED, "")
    if isinstance(error, BrokenPipeError):
        return Failure(BROKEN_PIPE, "")
    if lost_peer(error):
        return Failure(
            TRY_AGAIN,
            f"dragoman: rank {os.environ.get('RANK', '0')} lost another rank, which was killed, perhaps for want of "
            "memory, or failed, or hangs (its log has what it said last); the same command goes on from the newest "
            f"checkpoint ({str(error).splitlines()[0]})",
            lost_peer=True,
        )
    full = _full_disk(error)
    if full is not None:
        return Failure(
            USER_ERROR,
            f"dragoman: no space is left on the disk{_where(full)}; free some and give the same command again: what is "
            "complete is kept.",
        )
    return Failure(DEFECT, "".join(traceback.format_exception(error)).rstrip())


def _full_disk(error: BaseException) -> BaseException | None:
    """The exception in the chain that says so; Rust and C++ libraries report a full disk in words only."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return link
        if "no space left on device" in str(link).lower():
            return link
        link = link.__cause__ or link.__context__
    return None


def _where(error: BaseException) -> str:
    filename = getattr(error, "filename", None)
    return f" that holds {filename}" if filename else ""
