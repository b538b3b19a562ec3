"""The exceptions for a user's mistake."""


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
