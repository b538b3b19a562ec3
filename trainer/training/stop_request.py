"""Signals that ask a run to stop: they only set a flag; the ranks agree on it between two steps."""

import signal
from types import FrameType

from trainer.run_directory.stop_reason import StopReason

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Remembers the first stop signal that this process got. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._interrupted = False

    def install(self) -> "StopRequest":
        """Takes over SIGTERM, SIGUSR1 and SIGINT; to be called on the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.reason = self.reason or StopReason[signal.Signals(number).name]
