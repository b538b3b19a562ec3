"""Exceptions that have a meaning for the user, exit statuses, and exceptions in one line. Standard library only."""

import re
from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of commands and workers, 0 apart."""

    DEFECT = 1
    """An exception that nobody expected; its traceback is printed."""
    USER_ERROR = 2
    """A mistake that only the user can correct."""
    TRY_AGAIN = 75
    """The same command may succeed now, from the newest checkpoint: EX_TEMPFAIL of sysexits.h."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, as shells report it."""
    BROKEN_PIPE = 141
    """Nobody reads the output any more, as shells report it."""


class UserError(ValueError):
    """A mistake of the user, in one sentence: what, where, the value, the rule, the remedy.

    The command line prints the sentence without a traceback and exits with `ExitStatus.USER_ERROR`. Every other
    exception is a defect of ours or a failure of the machine and keeps its traceback.
    """


class OutOfMemory(Exception):
    """A step ran out of memory where it could not be repeated in smaller parts; the next start can do that."""


class Unavailable(UserError):
    """A temporary failure, such as a lost network. Finished work is kept for the next try."""


class ProcessDied(Unavailable):
    """A process that worked for this one was killed, usually by the out-of-memory killer; another try may succeed."""


# What gloo, NCCL and torch's store report if another process is gone.
_OF_ANOTHER = re.compile(
    r"gloo.*((closed|reset) by peer|broken pipe|timed out waiting)|ncclRemoteError|Connection was likely closed",
    re.I | re.S,
)


def lost_peer(error: BaseException) -> bool:
    """Whether a rank failed in a collective only because another rank had failed before."""
    return isinstance(error, RuntimeError) and _OF_ANOTHER.search(str(error)) is not None


def error_line(error: BaseException, *, with_type: bool = True) -> str:
    """An exception in one line without a full stop: its type and the first line of its message.

    A UserError, whose message says everything, has no type in front. `with_type=False` leaves it out of others too,
    unless they have no message.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    message = next((line.rstrip(".: ") for line in lines if line), "")
    kind = type(error).__name__
    if not message:
        return kind
    return f"{kind}: {message}" if with_type and not isinstance(error, UserError) else message
