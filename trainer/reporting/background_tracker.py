"""A tracker that cannot hurt training: it hands records to a daemon thread through a bounded queue."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from trainer.errors import error_line
from trainer.run_directory.stop_reason import RunOutcome

Notify = Callable[[str], None]


class Tracker(Protocol):
    """A copy of the metrics elsewhere. No method raises; `log` does not block, `close` for a bounded time."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Takes a record as it is written into `metrics.jsonl`."""

    def close(self, outcome: RunOutcome) -> None:
        """Brings out what is left; an interrupted run is resumed later."""


class NoTracker:
    """Tracking switched off."""

    def log(self, record: Mapping[str, Any]) -> None:
        pass

    def close(self, outcome: RunOutcome) -> None:
        pass


class Trackers:
    """Several as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, record: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(record)

    def close(self, outcome: RunOutcome) -> None:
        for tracker in self._trackers:
            tracker.close(outcome)


class Sink(Protocol):
    """Where the tracker's thread brings records. Any method may be slow or raise; all but `abandon` run there."""

    def open(self) -> None: ...

    def write(self, record: Mapping[str, Any]) -> None: ...

    def finish(self, outcome: RunOutcome) -> None: ...

    def confirm(self) -> None:
        """Called after `finish` where no record was dropped and no write failed."""

    def release(self) -> None:
        """Called last, whatever happened before."""

    def abandon(self) -> None:
        """Makes the call under way end soon; comes from another thread."""


class BackgroundTracker:
    """Brings records to a sink on a daemon thread and shields training from it. `name` is how the user is told of it.

    The thread ends after `max_errors` failed writes. `close` waits `close_seconds` for what is queued.
    """

    def __init__(
        self,
        sink: Sink,
        notify: Notify,
        *,
        name: str = "W&B",
        close_seconds: float = 30,
        queue_size: int = 1000,
        max_errors: int = 5,
    ) -> None:
        self._sink, self._name = sink, name
        self._notify = notify
        self._close_seconds = close_seconds
        self._max_errors = max_errors
        self._queue: queue.Queue[dict[str, Any] | RunOutcome] = queue.Queue(queue_size)
        self._num_dropped = self._num_errors = 0
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def log(self, record: Mapping[str, Any]) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._queue.put_nowait(dict(record))
        except queue.Full:
            self._num_dropped += 1

    def close(self, outcome: RunOutcome) -> None:
        deadline = time.monotonic() + self._close_seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            with suppress(queue.Full):
                self._queue.put(outcome, timeout=0.1)
                break
        self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            self._leave_behind()
        if self._num_dropped:
            self._tell(f"missed {self._num_dropped} records that came too fast; metrics.jsonl has them all.")

    def _tell(self, what: str) -> None:
        self._notify(f"{self._name} {what}")

    def _leave_behind(self) -> None:
        self._abandoned = True
        self._tell(f"did not finish within {self._close_seconds:g} s and is left behind; metrics.jsonl is complete.")
        self._sink.abandon()
        # Lets the thread tidy up, so that nothing of wandb's waits or complains when the interpreter ends.
        self._thread.join(2)

    def _work(self) -> None:
        try:
            self._sink.open()
            self._sink.finish(self._write_until_closed())
            if not self._num_dropped and not self._num_errors:
                self._sink.confirm()
        except Exception as error:
            if not self._abandoned:
                self._tell(f"is off for the rest of this run ({error_line(error)}); metrics.jsonl goes on.")
        finally:
            with suppress(Exception):
                self._sink.release()

    def _write_until_closed(self) -> RunOutcome:
        while True:
            item = self._queue.get()
            if not isinstance(item, dict):
                return item
            try:
                self._sink.write(item)
            except Exception:
                self._num_errors += 1
                if self._num_errors >= self._max_errors:
                    raise
