"""What follows the end of a SLURM job, a function of how it ended and of the decisions before. Standard library only.

Whether a job that begins has anything to do is decided here as well.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from trainer.errors import ExitStatus

Record = Mapping[str, Any]
Action = Literal["requeue", "next", "stop"]
_SILENT = "a process was killed without an error message"


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    `state` is what rank 0 wrote to state.json since the job began, None if training never began. `outcomes` are the
    failures of the workers in order of time: `status`, `message`, `start_again`, and `lost_peer` if a worker failed
    only because another one had. `failed_step` is the last step before a failure that a rank recorded. `last_line` is
    the end of the job's log.
    """

    status: int
    cancelled: bool
    warned: bool
    step: int
    state: Record | None = None
    outcomes: Sequence[Record] = ()
    failed_step: int | None = None
    last_line: str = ""
    max_crashes: int = 10
    may_requeue: bool = True


@dataclass(frozen=True)
class Decision:
    """What follows, why, and the exit status of a job that ends; `crash` is equal for two crashes of the same kind."""

    decision: Action
    reason: str
    status: int = 0
    crash: str | None = None


def decide(end: JobEnd, history: Sequence[Record]) -> Decision:
    """What follows the end of a job; `history` are the decisions before."""
    again: Action = "requeue" if end.may_requeue else "next"
    state = end.state or {}
    if state.get("state") == "finished":
        return Decision("stop", "finished")
    if end.cancelled:
        return Decision("stop", f"cancelled; the newest checkpoint, after step {end.step}, is kept")
    mistake = next((o for o in end.outcomes if o["status"] == ExitStatus.USER_ERROR), None)
    if mistake:
        return Decision("stop", _headline(mistake), ExitStatus.USER_ERROR)
    if state.get("state") == "stopped":
        return Decision(again, f"stopped by {state.get('reason')} after step {state.get('step')}")
    if end.warned and not end.outcomes:
        return Decision(again, "asked to stop before training began")
    return _after_a_crash(end, history, again)


def _after_a_crash(end: JobEnd, history: Sequence[Record], again: Action) -> Decision:
    first = next((o for o in end.outcomes if not o.get("lost_peer")), None)
    crash = _headline(first) if first else f"{_SILENT} (status {end.status})"
    step = end.step if end.failed_step is None else end.failed_step
    reason = _reason(end, crash if first else None, step).removesuffix(".")
    before = _crashes_in_a_row(history)
    # Numbers change from start to start: ports, processes, addresses.
    mark = f"{step}: {re.sub('[0-9]+', '#', crash)}"
    if before and before[-1].get("crash") == mark and not (first and first.get("start_again")):
        return Decision("stop", f"{reason}; the second time in a row", end.status or 1, mark)
    if len(before) >= end.max_crashes:
        return Decision("stop", f"{reason}; after {len(before)} others in a row", end.status or 1, mark)
    return Decision(again, reason, crash=mark)


def _reason(end: JobEnd, crash: str | None, step: int) -> str:
    """A crash in a sentence; without a worker's own words, the last line of the log."""
    if end.state is not None:
        return f"crash after step {step}: {crash or f'{_SILENT} (status {end.status})'}"
    line = end.last_line.strip().removeprefix("dragoman: ")
    return f"failed to start: {crash or f'{line or _SILENT} (status {end.status})'}"


def _crashes_in_a_row(history: Sequence[Record]) -> list[Record]:
    """The newest decisions, oldest first, back to the last that was not about a crash or to the submission."""
    found: list[Record] = []
    for record in reversed(history):
        if record.get("crash") is None:
            break
        found.insert(0, record)
    return found


def _headline(outcome: Record) -> str:
    """A failure in one line: a sentence as a whole, of a traceback its last line."""
    lines = [line.strip() for line in str(outcome["message"]).splitlines() if line.strip()]
    return lines[-1].removeprefix("dragoman: ") if lines else f"exit status {outcome['status']}"


def why_not_to_begin(state: Record | None, job: str, history: Sequence[Record]) -> str | None:
    """Why a job has nothing to do, or None if it has; `state` is what state.json says."""
    if state and state.get("state") == "finished" and not _submitted_since_the_end(state, history):
        return "the run has finished"
    last = history[-1] if history else {}
    if last.get("decision") == "stop" and last.get("job") != job:
        return f"job {last.get('job')} has ended the run: {last.get('reason')}"
    return None


def _submitted_since_the_end(state: Record, history: Sequence[Record]) -> bool:
    """Whether somebody has asked for more of a run that had finished, such as more steps."""
    last = next((r for r in reversed(history) if r.get("decision") == "submitted"), {})
    return float(last.get("time", 0.0)) > float(state.get("time", 0.0))


def is_cancelled(description: str) -> bool:
    """Whether `scancel` ended the job that `scontrol show job` describes.

    While its script still runs, SLURM calls such a job COMPLETING, like one that was preempted or out of time. (It
    also calls one that lost a node so; but that one SLURM itself starts again, whatever is decided here.)
    """
    facts = dict(re.findall(r"\b(\w+)=(\S+)", description))
    if facts.get("JobState") == "CANCELLED":
        return True
    if facts.get("JobState") != "COMPLETING" or facts.get("PreemptTime", "None") not in ("None", "N/A"):
        return False
    return _seconds(facts.get("RunTime", "00:00:00")) < _seconds(facts.get("TimeLimit", ""))


def _seconds(duration: str) -> float:
    """Seconds in days-hours:minutes:seconds; infinity for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if not found:
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds
