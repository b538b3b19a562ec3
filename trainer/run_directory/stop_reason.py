"""Why training ended. `state.json` and `metrics.jsonl` hold these words. Standard library only."""

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
