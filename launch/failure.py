"""What the user reads about a failure: one sentence if they can correct it, a traceback if only we can."""

import errno
import os
import traceback
from dataclasses import dataclass

from trainer.errors import ExitStatus, OutOfMemory, ProcessDied, UserError, error_line, lost_peer


@dataclass(frozen=True)
class Failure:
    """The exit status of a command that failed, and what to print on stderr, which may be empty.

    `start_again`: the same command succeeds without any change. `lost_peer`: the cause is another rank's failure.
    """

    status: int
    message: str
    start_again: bool = False
    lost_peer: bool = False


def explain(error: BaseException) -> Failure:
    """The exit status and message for an exception that ended a command or a worker."""
    if isinstance(error, UserError):
        return Failure(
            ExitStatus.TRY_AGAIN if isinstance(error, ProcessDied) else ExitStatus.USER_ERROR, f"dragoman: {error}"
        )
    if isinstance(error, OutOfMemory):
        return Failure(
            ExitStatus.TRY_AGAIN,
            f"dragoman: rank {os.environ.get('RANK', '0')} ran out of memory ({error}); the next start resumes from "
            "the newest checkpoint and computes each micro-batch in twice as many parts. A smaller `data.max_tokens` "
            "avoids it.",
            start_again=True,
        )
    if isinstance(error, KeyboardInterrupt):
        return Failure(ExitStatus.INTERRUPTED, "")
    if isinstance(error, BrokenPipeError):
        return Failure(ExitStatus.BROKEN_PIPE, "")
    if lost_peer(error):
        return Failure(
            ExitStatus.TRY_AGAIN,
            f"dragoman: rank {os.environ.get('RANK', '0')} lost another rank, which failed, hangs or was killed, "
            "possibly out of memory (see its log). The same command resumes from the newest checkpoint "
            f"({error_line(error, with_type=False)})",
            lost_peer=True,
        )
    full = _full_disk(error)
    if full is not None:
        return Failure(
            ExitStatus.USER_ERROR,
            f"dragoman: no space is left on the disk{_where(full)}; free some and run the same command again, which "
            "keeps what is complete.",
        )
    return Failure(ExitStatus.DEFECT, "".join(traceback.format_exception(error)).rstrip())


def _full_disk(error: BaseException) -> BaseException | None:
    """The exception in the chain that reports a full disk; Rust and C++ libraries do so in their message only."""
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
