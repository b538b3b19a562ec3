"""What a run that has not come to training since it was submitted waits for, or why it failed to start."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from launch.slurm.job_queue import Job

Record = Mapping[str, Any]
State = Literal["submitted", "starting", "failed to start", "stopped"]


def state_before_training(
    decisions: Sequence[Record], trained: float, jobs: Mapping[str, Job]
) -> tuple[State, str] | None:
    """The state of the run and more about it, or None if the newest decision is older than the newest training.

    `decisions` are the lines of restarts.jsonl, `trained` is when training last began (0 if never), `jobs` what SLURM
    reports.
    """
    since = [decision for decision in decisions if decision.get("time", 0.0) > trained]
    last = since[-1] if since else {}
    # Of a decision about a start that trained, state.json knows more. Older decisions do not say whether it did.
    if not last or last.get("trained", last.get("decision") != "submitted"):
        return None
    reason = str(last.get("reason"))
    if last.get("decision") != "submitted" and last.get("crash") is not None:
        return "failed to start", reason.removeprefix("failed to start: ")
    if last.get("decision") == "stop":
        # A user's mistake, or `scancel`.
        cancelled = reason.startswith("cancelled")
        return ("stopped", reason) if cancelled else ("failed to start", reason)
    return _state_of_jobs([str(decision.get("job")) for decision in since], jobs)


def _state_of_jobs(ids: Sequence[str], jobs: Mapping[str, Job]) -> tuple[State, str]:
    known = [jobs[number] for number in ids if number in jobs]
    living = [job for job in known if not job.has_ended]
    for job in living:
        if job.is_running:
            return "starting", f"job {job.id} prepares the data or loads the model"
    if living:
        reason = f" ({living[0].reason})" if living[0].reason else ""
        return "submitted", f"job {living[0].id} waits in the queue{reason}"
    if known:
        return "failed to start", f"job {known[-1].id} ended before training began: SLURM reports {known[-1].state}"
    return "submitted", f"job {ids[-1]}; SLURM does not know it any more, or cannot be asked from here"
