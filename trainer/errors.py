"""The exceptions for a user's mistake, and which failures are only another's."""

import re


class UserError(ValueError):
    """A mistake of the user, told in one sentence: what, where, the value, the rule, the remedy.

    The command line prints the sentence without a traceback and exits with status 2. Everything else that is raised
    is our defect or the machine's failure and keeps its traceback.
    """


class OutOfMemory(Exception):
    """A step found no memory at a place where it could not be tried again in smaller parts; a new start can."""


class Unavailable(UserError):
    """Something that can be there again later, such as a network: what is finished is then worth keeping."""


class ProcessDied(Unavailable):
    """A process that worked for this one was killed, mostly for want of memory: the next start may well go on."""


# What gloo, NCCL and torch's store say where another process has gone; it is not why.
_OF_ANOTHER = re.compile(
    r"gloo.*((closed|reset) by peer|broken pipe|timed out waiting)|ncclRemoteError|Connection was likely closed",
    re.I | re.S,
)


def lost_peer(error: BaseException) -> bool:
    """Whether a rank failed in a collective only because another rank had: its own failure explains nothing."""
    return isinstance(error, RuntimeError) and _OF_ANOTHER.search(str(error)) is not None
