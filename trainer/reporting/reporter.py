"""One report, three places: `metrics.jsonl` (the truth), the console and the tracker. Rank 0 alone reports."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.reporting.background_tracker import NoTracker, Tracker
from trainer.reporting.console import Console, RunFacts, Sample
from trainer.reporting.events import Event
from trainer.reporting.metrics_file import MetricsFile
from trainer.run_directory.stop_reason import RunOutcome, StopReason


class Reporter:
    """Records what happened and shows it. On ranks other than 0 (`metrics` is None) it does nothing."""

    def __init__(
        self, facts: RunFacts, console: Console, metrics: MetricsFile | None = None, tracker: Tracker | None = None
    ) -> None:
        self._facts, self._console = facts, console
        self._metrics, self._tracker = metrics, tracker or NoTracker()

    def start(self, facts: Mapping[str, Any]) -> None:
        """`facts` are those of this start, see `trainer.reporting.start_facts`."""
        self._console.start(self._facts)
        event = Event.RESUMED if self._facts.start_step else Event.STARTED
        self._event(self._facts.start_step, event, {**facts, "engine": self._facts.engine})

    def step(self, step: int) -> None:
        """Moves the progress bar."""
        self._console.step(step)

    def train(self, record: Mapping[str, Any]) -> None:
        self._record("train", record)
        self._console.train(record)

    def valid(self, record: Mapping[str, Any], samples: Sequence[Sample], best: bool) -> None:
        self._record("valid", {**record, "best": best})
        self._console.valid(record, samples, best)

    def event(self, step: int, event: Event, detail: str, **more: Any) -> None:
        """Something a user must be able to find later, such as a skipped step. `more` is only recorded."""
        self._event(step, event, {"detail": detail, **more})
        self._console.message(f"step {step}: {event}: {detail}")

    def saved(self, step: int, path: Path, best: bool) -> None:
        """A checkpoint is published; `best`: none had a better score."""
        self.event(step, Event.SAVED, str(path), path=str(path), best=best)

    def updated(self, step: int, path: Path, best: bool) -> None:
        """A checkpoint that was published before its validation has its score."""
        if best:
            self._event(step, Event.BEST, {"detail": str(path), "path": str(path), "best": True})

    def failed(self, step: int, reason: str) -> None:
        """Records the failure in the metrics only; the user sees it as the command's error."""
        self._event(step, Event.FAILED, {"detail": reason})

    def rolled_back(self, step: int, detail: str) -> None:
        """The run is back at `step` and repeats the steps after it."""
        if self._metrics:
            self._metrics.drop_after(step)
        self.event(step, Event.ROLLED_BACK, detail)

    def finish(self, step: int, reason: StopReason, best: str | None) -> None:
        """Training has ended; `best` names the best checkpoint."""
        self._event(step, Event.ENDED, {"detail": reason})
        self._console.finish(step, self._facts, best, reason)

    def close(self, outcome: RunOutcome) -> None:
        """Removes the bar and lets the tracker write what it still has, for a bounded time."""
        self._console.__exit__(None, None, None)
        self._tracker.close(outcome)
        if self._metrics:
            self._metrics.close()

    def _event(self, step: int, event: Event, more: Mapping[str, Any]) -> None:
        self._record("event", {"step": step, "event": event, "time": time.time(), **more})

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        if self._metrics is None:
            return
        record = {"kind": kind, **values}
        self._metrics.write(record)
        self._tracker.log(record)
