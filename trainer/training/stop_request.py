"""Signals that ask a run to stop. They only set a flag; the ranks agree on it between two steps."""

import signal
from types import FrameType

from trainer.run_directory.stop_reason import StopReason, stop_signals


class StopRequest:
    """Remembers the first stop signal that this process received. A second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._interrupted = False

    def install(self) -> "StopRequest":
        """Handles the stop signals from now on; to be called on the main thread."""
        for number in stop_signals():
            signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.reason = self.reason or StopReason[signal.Signals(number).name]
