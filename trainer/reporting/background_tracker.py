"""A tracker that cannot slow or stop training: it passes records to a daemon thread through a bounded queue."""

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
    """A copy of the metrics elsewhere. No method raises; `log` does not block, and `close` only for a bounded time."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Takes a record as it is written into `metrics.jsonl`."""

    def close(self, outcome: RunOutcome) -> None:
        """Writes what is left. An interrupted run is resumed later."""


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
    """Destination of the records. Every method but `abandon` runs on the tracker's thread and may block or raise."""

    def open(self) -> None: ...

    def write(self, record: Mapping[str, Any]) -> None: ...

    def finish(self, outcome: RunOutcome) -> None: ...

    def confirm(self) -> None:
        """Called after `finish` if no record was dropped and no write failed."""

    def release(self) -> None:
        """Called last, whatever happened before."""

    def abandon(self) -> None:
        """Makes the call in progress end soon. Called from another thread."""


class BackgroundTracker:
    """Writes records to a sink on a daemon thread and shields training from it. Messages to the user begin with `name`.

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
            self._abandon()
        if self._num_dropped:
            self._report(f"missed {self._num_dropped} records that came too fast; metrics.jsonl has all of them.")

    def _report(self, what: str) -> None:
        self._notify(f"{self._name} {what}")

    def _abandon(self) -> None:
        self._abandoned = True
        self._report(f"did not finish within {self._close_seconds:g} s and is abandoned; metrics.jsonl is complete.")
        self._sink.abandon()
        # Lets the thread clean up, so that nothing of wandb's waits or prints an error when the interpreter ends.
        self._thread.join(2)

    def _work(self) -> None:
        try:
            self._sink.open()
            self._sink.finish(self._write_until_closed())
            if not self._num_dropped and not self._num_errors:
                self._sink.confirm()
        except Exception as error:
            if not self._abandoned:
                self._report(f"is off for the rest of this run ({error_line(error)}); metrics.jsonl has all records.")
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
            except Exception:  # of whatever library the sink calls; training must not end for it
                self._num_errors += 1
                if self._num_errors >= self._max_errors:
                    raise
