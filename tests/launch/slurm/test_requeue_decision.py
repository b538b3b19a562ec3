"""What follows the end of a job."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from launch.failure import explain
from launch.slurm.requeue_decision import JobEnd, decide, is_cancelled

RUNNING = JobEnd(status=0, cancelled=False, warned=False, step=40, state={"state": "training"})
STOPPED = {"state": "stopped", "reason": "SIGUSR1", "step": 40}
CRASH = replace(RUNNING, status=1, outcomes=[{"status": 1, "message": "Traceback\nRuntimeError: broken, port 31337"}])
SAME = {"decision": "requeue", "crash": "40: RuntimeError: broken, port #"}


@pytest.mark.parametrize(
    ("end", "history", "decision", "reason"),
    [
        (replace(RUNNING, state={"state": "finished"}), [], "stop", "finished"),
        (replace(RUNNING, state=STOPPED), [], "requeue", "stopped by SIGUSR1 after step 40"),
        (replace(RUNNING, state=STOPPED, status=1), [], "requeue", "stopped by SIGUSR1"),  # torchrun's word counts less
        (
            replace(RUNNING, state=STOPPED, cancelled=True),
            [],
            "stop",
            "cancelled; the newest checkpoint, after step 40",
        ),
        (replace(RUNNING, state=STOPPED, may_requeue=False), [], "next", "stopped by SIGUSR1"),
        (replace(RUNNING, warned=True, status=138), [], "requeue", "before training began"),
        (CRASH, [], "requeue", "crash after step 40: RuntimeError: broken"),
        (CRASH, [SAME], "stop", "the second time in a row"),
        (replace(CRASH, step=60), [SAME], "requeue", "crash after step 60"),
        (replace(CRASH, failed_step=41), [SAME], "requeue", "crash after step 41"),
        (CRASH, [SAME, {"decision": "requeue", "crash": None}], "requeue", "crash"),  # not in a row
        (CRASH, [SAME, {"decision": "submitted", "crash": None}], "requeue", "crash"),  # somebody has mended it
        (CRASH, [{"crash": f"{step}: other"} for step in range(10)], "stop", "after 10 others in a row"),
        (replace(CRASH, state=None), [], "requeue", "failed to start: RuntimeError: broken"),
        (replace(RUNNING, status=1, state=None, last_line="srun: fatal: so"), [], "requeue", "start: srun: fatal: so"),
        (replace(RUNNING, status=137, state=None), [], "requeue", "failed to start: a process was killed"),
        (replace(RUNNING, status=137), [], "requeue", "a process was killed without an error message (status 137)"),
    ],
)
def test_decisions(end: JobEnd, history: Sequence[dict[str, Any]], decision: str, reason: str) -> None:
    found = decide(end, history)
    assert found.decision == decision
    assert reason in found.reason


@pytest.mark.parametrize(
    ("said", "cancelled"),
    [
        ("JobState=CANCELLED RunTime=00:00:02 TimeLimit=01:00:00 PreemptTime=None", True),
        ("JobState=COMPLETING RunTime=00:00:02 TimeLimit=1-00:00:00 PreemptTime=None", True),
        ("JobState=COMPLETING RunTime=00:00:02 TimeLimit=UNLIMITED PreemptTime=None", True),
        ("JobState=COMPLETING RunTime=1-00:00:07 TimeLimit=1-00:00:00 PreemptTime=None", False),
        ("JobState=COMPLETING RunTime=00:00:02 TimeLimit=01:00:00 PreemptTime=2026-11-27T09:41:07", False),
        ("JobState=RUNNING RunTime=00:00:02 TimeLimit=01:00:00 PreemptTime=None", False),
        ("", False),
    ],
)
def test_what_scancel_looks_like(said: str, cancelled: bool) -> None:
    assert is_cancelled(said) == cancelled


def test_the_users_mistake_counts_before_the_crashes_that_it_brings_about() -> None:
    mistake = {"status": 2, "message": "dragoman: `data.max_tokens` must be larger."}
    found = decide(replace(CRASH, outcomes=[*CRASH.outcomes, mistake], warned=True), [])
    assert (found.decision, found.reason, found.status) == ("stop", "`data.max_tokens` must be larger.", 2)


def test_what_a_rank_says_of_another_is_no_cause() -> None:
    echo = asdict(
        explain(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31396."))
    )
    assert "a process was killed without an error message" in decide(replace(CRASH, outcomes=[echo]), []).reason
    assert "RuntimeError: broken" in decide(replace(CRASH, outcomes=[echo, *CRASH.outcomes]), []).reason
    own = asdict(explain(ConnectionResetError(104, "Connection reset by peer")))  # of a file server
    assert "reset by peer" in decide(replace(CRASH, outcomes=[own]), []).reason


def test_a_rank_without_memory_may_say_so_twice() -> None:
    out = {"status": 75, "message": "dragoman: rank 0 ran out of memory.", "start_again": True}
    end = replace(CRASH, outcomes=[out])
    first = decide(end, [])
    assert decide(end, [{"crash": first.crash}]).decision == "requeue"
