"""Why training ended. `state.json` and `metrics.jsonl` hold these words. Standard library only."""

import signal
from enum import Enum, StrEnum


class RunOutcome(Enum):
    """What the end of a start means for the run: complete, to be resumed, or broken."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class StopReason(StrEnum):
    """Why the training loop returned: it had finished, or a signal asked for it. Members are named as the signals."""

    FINISHED = "finished"
    STOPPED_EARLY = "stopped early"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"
    SIGXCPU = "SIGXCPU"

    @property
    def outcome(self) -> RunOutcome:
        """A run that a signal stopped is resumed later; the others are complete."""
        is_complete = self in (StopReason.FINISHED, StopReason.STOPPED_EARLY)
        return RunOutcome.FINISHED if is_complete else RunOutcome.INTERRUPTED


STOP_SIGNALS = tuple(signal.Signals[r.name] for r in StopReason if r.outcome is RunOutcome.INTERRUPTED)
"""The signals after which a run saves and ends, and can be resumed.

SIGTERM and SIGINT (Ctrl-C), SIGHUP (the terminal was closed), and those with which batch systems announce the end:
SIGUSR1 and SIGUSR2 (SLURM, Grid Engine, LSF), SIGXCPU (a limit on processor time). SIGQUIT (Ctrl-\\) is not among
them: it still ends a process at once.
"""


def stop_signals() -> tuple[signal.Signals, ...]:
    """`STOP_SIGNALS`, but without SIGHUP if this process was started to ignore it, as `nohup` does."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in STOP_SIGNALS if not (number == signal.SIGHUP and ignores_hangup))
