"""The history of a run: its starts and what ended each, its saves, its failures."""

from bisect import bisect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from trainer.reporting.events import STARTS, Event
from trainer.run_directory.layout import checkpoint_step, list_checkpoints

_NO_REASON = "killed without an error message"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """Something that happened at a step. `time` is in seconds since 1970, None if it was not recorded."""

    step: int
    time: float | None
    text: str


@dataclass(frozen=True)
class Restart:
    """A start of the run after its first. `reason` is why the start before it ended."""

    step: int
    time: float | None
    host: str | None
    world_size: int | None
    slurm_job: str | None
    reason: str


def causes(failures: Sequence[Record], events: Sequence[Record]) -> list[Record]:
    """The failures, without those of ranks that only lost another rank in a start whose cause is known."""
    starts = [event.get("time") or 0.0 for event in events if event.get("event") in STARTS]

    def start_of(failure: Record) -> int:
        return bisect(starts, failure.get("time", 0.0))

    explained = {start_of(failure) for failure in failures if not failure.get("lost_peer")}
    return [failure for failure in failures if not failure.get("lost_peer") or start_of(failure) not in explained]


def restarts(events: Sequence[Record], failures: Sequence[Record], requeues: Sequence[Record]) -> list[Restart]:
    """All starts but the first, in order. `events` are from metrics.jsonl, `requeues` from restarts.jsonl."""
    found: list[Restart] = []
    before: Record | None = None
    ended: str | None = None
    for event in events:
        if event.get("event") == Event.ENDED:
            ended = str(event.get("detail"))
        if event.get("event") not in STARTS:
            continue
        if before is not None or event["event"] == Event.RESUMED:
            span = (before.get("time") or 0.0 if before else 0.0, event.get("time") or inf)
            found.append(_restart(event, ended or _failure_between(span, failures), _requeue_between(span, requeues)))
        before, ended = event, None
    return found


def _restart(event: Record, reason: str | None, requeue: str | None) -> Restart:
    reasons = [reason or _NO_REASON, *([f"SLURM: {requeue}"] if requeue and requeue != reason else [])]
    return Restart(
        step=event.get("step", 0),
        time=event.get("time"),
        host=event.get("host"),
        world_size=event.get("world_size"),
        slurm_job=event.get("slurm_job"),
        reason="; ".join(reasons),
    )


def _failure_between(span: tuple[float, float], failures: Sequence[Record]) -> str | None:
    """The first one: the others follow from it."""
    for failure in failures:
        if span[0] < failure.get("time", 0.0) < span[1]:
            return f"rank {failure.get('rank')}: {failure.get('error')}"
    return None


def _requeue_between(span: tuple[float, float], requeues: Sequence[Record]) -> str | None:
    reasons = [str(r["reason"]) for r in requeues if r.get("reason") and span[0] < r.get("time", 0.0) < span[1]]
    return reasons[-1] if reasons else None


def last_saves(directory: Path, events: Sequence[Record]) -> tuple[Moment | None, Moment | None]:
    """The newest checkpoint, and the last save that failed if that was after it."""
    checkpoints = list_checkpoints(directory)
    saved = None
    if checkpoints:
        newest = checkpoints[-1]
        with suppress(OSError):  # retention may just be removing it
            saved = Moment(checkpoint_step(newest), newest.stat().st_mtime, str(newest))
    for event in reversed(events):
        if event.get("event") == Event.SAVED:
            break
        if event.get("event") == Event.SAVE_FAILED:
            return saved, Moment(event.get("step", 0), event.get("time"), str(event.get("detail")))
    return saved, None


def failure_moments(failures: Sequence[Record]) -> list[Moment]:
    """The failures as they are shown, in order."""
    return [
        Moment(f.get("step", 0), f.get("time"), f"rank {f.get('rank')} on {f.get('host')}: {f.get('error')}")
        for f in failures
    ]
