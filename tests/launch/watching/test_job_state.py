"""A run whose job never came to training has a state and a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.slurm.job_queue import Job
from launch.watching.job_state import state_before_training
from launch.watching.status import RunReader

SUBMITTED = {"time": 10.0, "job": "7", "decision": "submitted", "reason": "submitted, nodes: 2", "crash": None}
FAILED = {"time": 20.0, "job": "7", "trained": False, "reason": "failed to start: srun: fatal: exclusive (status 1)"}
CRASH = FAILED | {"decision": "stop", "crash": "0: killed"}


@pytest.mark.parametrize(
    ("decisions", "trained", "jobs", "state", "detail"),
    [
        ([SUBMITTED], 0.0, [Job("7", "PENDING", "Priority")], "submitted", "job 7 waits in the queue (Priority)"),
        ([SUBMITTED], 0.0, [Job("7", "RUNNING")], "starting", "job 7 prepares the data or loads the model"),
        ([SUBMITTED], 0.0, [], "submitted", "job 7; SLURM does not know it any more, or cannot be asked from here"),
        (
            [SUBMITTED], 0.0, [Job("7", "FAILED")], "failed to start",
            "job 7 ended before training began: SLURM reports FAILED",
        ),
        ([SUBMITTED, CRASH], 0.0, [], "failed to start", "srun: fatal: exclusive (status 1)"),
        ([SUBMITTED, CRASH], 5.0, [Job("7", "FAILED")], "failed to start", "srun: fatal: exclusive (status 1)"),
        (
            [SUBMITTED, FAILED | {"decision": "stop", "crash": None, "reason": "a.en does not exist"}], 0.0, [],
            "failed to start", "a.en does not exist",
        ),
        (
            [SUBMITTED, FAILED | {"decision": "stop", "crash": None, "reason": "cancelled; kept"}], 0.0, [],
            "stopped", "cancelled; kept",
        ),
        # A chain: the first job runs, the second waits.
        ([SUBMITTED, SUBMITTED | {"job": "8"}], 0.0, [Job("7", "RUNNING"), Job("8", "PENDING")], "starting", "job 7"),
    ],
)  # fmt: skip
def test_states_before_training(
    decisions: list[dict[str, Any]], trained: float, jobs: list[Job], state: str, detail: str
) -> None:
    found = state_before_training(decisions, trained, {job.id: job for job in jobs})
    assert found is not None
    assert found[0] == state
    assert found[1].startswith(detail)


@pytest.mark.parametrize(
    ("decisions", "trained"),
    [
        ([], 0.0),
        ([SUBMITTED], 15.0),
        ([SUBMITTED, CRASH | {"trained": True}], 15.0),
        ([SUBMITTED, {**CRASH, "trained": True}], 0.0),
        ([{"time": 20.0, "job": "7", "decision": "requeue", "reason": "stopped by SIGUSR1"}], 0.0),  # an older line
    ],
)
def test_what_state_json_knows_better(decisions: list[dict[str, Any]], trained: float) -> None:
    assert state_before_training(decisions, trained, {}) is None


def test_status_shows_the_end_of_the_log_of_a_job_that_failed_to_start(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "restarts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (SUBMITTED, CRASH)))
    (tmp_path / "slurm" / "job-7.log").write_text("loading modules\nsrun: fatal: mutually exclusive\n\n")
    status = RunReader(tmp_path).read({})
    assert (status.state, status.detail) == ("failed to start", "srun: fatal: exclusive (status 1)")
    assert status.last_lines == ["loading modules", "srun: fatal: mutually exclusive"]
