"""Whether a SLURM job starts its run again, decided at its end; and whether it has anything to do, at its beginning.

Each decision is a line of RUN/restarts.jsonl, which `dragoman status` reads:

    {"time", "job", "restart", "decision", "reason", "step", "crash"}

`decision` is submitted, requeue, next (a chain's next job goes on) or stop; `restart` is how often SLURM had started
the job before; `step` that of the newest checkpoint; `crash` what a crash said, null for every other end.

Standard library only: where the training runs in a container, this runs outside of it.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from launch.watching.run_history import causes, read_requeues
from launch.worker_failures import OUTCOMES_FOLDER, read_outcomes
from trainer.errors import ExitStatus
from trainer.files import write_atomically
from trainer.run_directory.layout import JOB_BEGUN, JOBS, RESTARTS, checkpoint_step, list_checkpoints
from trainer.run_directory.state import read_failures, read_state

REQUEUE, NOTHING_TO_DO = 85, 86
_SILENT = "a process died without a word"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class JobEnd:
    """How a job ended. `state` is what rank 0 said in this start, None where nothing; `outcomes` the failures of its
    workers, in order, each with `status`, `message` and, where it is only another's, `lost_peer`; `failed_step` where
    one of them told it."""

    status: int
    cancelled: bool
    warned: bool
    step: int
    state: Record | None = None
    outcomes: Sequence[Record] = ()
    failed_step: int | None = None
    max_crashes: int = 10
    may_requeue: bool = True


@dataclass(frozen=True)
class Decision:
    """What follows, why, and the exit status of a job that ends; `crash` tells one crash from another."""

    decision: Literal["requeue", "next", "stop"]
    reason: str
    status: int = 0
    crash: str | None = None


def decide(end: JobEnd, history: Sequence[Record]) -> Decision:
    """What follows the end of a job; `history` are the decisions before."""
    on: Literal["requeue", "next"] = "requeue" if end.may_requeue else "next"
    said = end.state or {}
    if said.get("state") == "finished":
        return Decision("stop", "finished")
    if end.cancelled:
        return Decision("stop", f"cancelled; the newest checkpoint, after step {end.step}, is kept")
    mistake = next((o for o in end.outcomes if o["status"] == ExitStatus.USER_ERROR), None)
    if mistake:
        return Decision("stop", _headline(mistake), ExitStatus.USER_ERROR)
    if said.get("state") == "stopped":
        return Decision(on, f"stopped by {said.get('reason')} after step {said.get('step')}")
    if end.warned and not end.outcomes:
        return Decision(on, "told to stop before it had begun to train")
    return _after_a_crash(end, history, on)


def _after_a_crash(end: JobEnd, history: Sequence[Record], on: Literal["requeue", "next"]) -> Decision:
    first = next((o for o in end.outcomes if not o.get("lost_peer")), None)
    crash = _headline(first) if first else f"{_SILENT} (status {end.status})"
    step = end.step if end.failed_step is None else end.failed_step
    told = f"crash after step {step}: {crash}"
    before = _crashes_in_a_row(history)
    # Numbers change from start to start: ports, processes, addresses.
    mark = f"{step}: {re.sub('[0-9]+', '#', crash)}"
    if before and before[-1].get("crash") == mark and not (first and first.get("start_again")):
        return Decision("stop", f"{told}; the second time in a row", end.status or 1, mark)
    if len(before) >= end.max_crashes:
        return Decision("stop", f"{told}; after {len(before)} others in a row", end.status or 1, mark)
    return Decision(on, told, crash=mark)


def _crashes_in_a_row(history: Sequence[Record]) -> list[Record]:
    """The last decisions, as far back as they are about crashes of this submission."""
    found: list[Record] = []
    for record in reversed(history):
        if record.get("crash") is None:
            break
        found.insert(0, record)
    return found


def _headline(outcome: Record) -> str:
    """Of a sentence all of it, of a traceback its last line."""
    lines = [line.strip() for line in str(outcome["message"]).splitlines() if line.strip()]
    return lines[-1].removeprefix("dragoman: ") if lines else f"exit status {outcome['status']}"


def why_not_to_begin(run: Path, job: str, history: Sequence[Record]) -> str | None:
    """Why a job has nothing to do; None where it has."""
    if (read_state(run) or {}).get("state") == "finished" and not _submitted_since_the_end(run, history):
        return "the run has finished"
    last = history[-1] if history else {}
    if last.get("decision") == "stop" and last.get("job") != job:
        return f"job {last.get('job')} has ended the run: {last.get('reason')}"
    return None


def _submitted_since_the_end(run: Path, history: Sequence[Record]) -> bool:
    """Whether somebody has asked for more of a run that had finished, such as more steps."""
    ended = (read_state(run) or {}).get("time", 0.0)
    last = next((r for r in reversed(history) if r.get("decision") == "submitted"), {})
    return float(last.get("time", 0.0)) > ended


def record(run: Path, decision: str, reason: str, job: str, **more: Any) -> None:
    """Adds a line to RUN/restarts.jsonl."""
    line = {"time": time.time(), "job": job, "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
    line |= {"decision": decision, "reason": reason, "step": _newest_step(run), "crash": None} | more
    with (run / RESTARTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _newest_step(run: Path) -> int:
    checkpoints = list_checkpoints(run)
    return checkpoint_step(checkpoints[-1]) if checkpoints else 0


def _begin(run: Path) -> int:
    job, restart = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", 0))
    history = read_requeues(run)
    why = why_not_to_begin(run, job, history)
    if why:
        print(f"dragoman: there is nothing to do: {why}.")
        return NOTHING_TO_DO
    last = history[-1] if history else {}
    if restart and not (last.get("decision") == "requeue" and last.get("job") == job):
        record(run, "requeue", "SLURM started the job again by itself: a node failed, or no time was left", job)
    begun = {"started": (read_state(run) or {}).get("started"), "num_failures": len(read_failures(run))}
    write_atomically(run / JOBS / JOB_BEGUN, json.dumps(begun))
    outcomes = os.environ.get(OUTCOMES_FOLDER)
    if outcomes:
        Path(outcomes).mkdir(parents=True, exist_ok=True)
    return 0


def _end(run: Path, options: argparse.Namespace, job: str) -> int:
    begun = json.loads((run / JOBS / JOB_BEGUN).read_text())
    state, outcomes = read_state(run), os.environ.get(OUTCOMES_FOLDER)
    if state and state.get("started") == begun["started"]:
        state = None  # the word of an earlier start
    failures = sorted(read_failures(run)[begun["num_failures"] :], key=lambda failure: failure["time"])
    end = JobEnd(
        status=options.status,
        cancelled=is_cancelled(job),
        warned=options.warned,
        step=_newest_step(run),
        state=state,
        outcomes=read_outcomes(Path(outcomes)) if outcomes else [],
        failed_step=next((f.get("step") for f in causes(failures, [])), None),
        max_crashes=options.max_crashes,
        may_requeue=not options.no_requeue,
    )
    decision = decide(end, read_requeues(run))
    word, reason = decision.decision, decision.reason
    record(run, word, reason, os.environ["SLURM_JOB_ID"], crash=decision.crash)
    print(f"dragoman: {reason}; {_FOLLOWS[word]}.")
    return REQUEUE if word == "requeue" else decision.status


_FOLLOWS = {
    "requeue": "the job is requeued",
    "next": "the next job of the chain goes on, or `dragoman submit`",
    "stop": "the job is not started again",
}


def is_cancelled(description: str) -> bool:
    """Whether it was `scancel` that ended the job that `scontrol show job` describes.

    While its script still runs, SLURM calls such a job COMPLETING, like one that was preempted or out of time. (So it
    calls one that lost a node, too; but that SLURM itself starts again, whatever is decided here.)
    """
    said = dict(re.findall(r"\b(\w+)=(\S+)", description))
    if said.get("JobState") == "CANCELLED":
        return True
    if said.get("JobState") != "COMPLETING" or said.get("PreemptTime", "None") not in ("None", "N/A"):
        return False
    return _seconds(said.get("RunTime", "00:00:00")) < _seconds(said.get("TimeLimit", ""))


def _seconds(duration: str) -> float:
    """Of days-hours:minutes:seconds; infinity for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if not found:
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def main() -> int:
    """`begin RUN`, or `end RUN STATUS` with `scontrol show job` on stdin; the exit status is the answer."""
    parser = argparse.ArgumentParser(prog="launch.slurm.requeue", description=__doc__)
    parser.add_argument("moment", choices=("begin", "end"))
    parser.add_argument("run", type=Path)
    parser.add_argument("status", type=int, nargs="?", default=0)
    parser.add_argument("--warned", action="store_true")
    parser.add_argument("--max-crashes", type=int, default=10)
    parser.add_argument("--no-requeue", action="store_true")
    options = parser.parse_args()
    return _begin(options.run) if options.moment == "begin" else _end(options.run, options, sys.stdin.read())


if __name__ == "__main__":
    sys.exit(main())
