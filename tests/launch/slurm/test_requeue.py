"""What follows the end of a job."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from launch.failure import explain
from launch.slurm import requeue
from launch.slurm.requeue import NOTHING_TO_DO, REQUEUE, JobEnd, decide
from launch.watching.run_history import read_requeues

RUNNING = JobEnd(status=0, cancelled=False, warned=False, step=40)
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
        (replace(RUNNING, warned=True, status=138), [], "requeue", "before it had begun"),
        (CRASH, [], "requeue", "crash after step 40: RuntimeError: broken"),
        (CRASH, [SAME], "stop", "the second time in a row"),
        (replace(CRASH, step=60), [SAME], "requeue", "crash after step 60"),
        (replace(CRASH, failed_step=41), [SAME], "requeue", "crash after step 41"),
        (CRASH, [SAME, {"decision": "requeue", "crash": None}], "requeue", "crash"),  # not in a row
        (CRASH, [SAME, {"decision": "submitted", "crash": None}], "requeue", "crash"),  # somebody has mended it
        (CRASH, [{"crash": f"{step}: other"} for step in range(10)], "stop", "after 10 others in a row"),
        (replace(RUNNING, status=137), [], "requeue", "a process died without a word (status 137)"),
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
    assert requeue.is_cancelled(said) == cancelled


def test_the_users_mistake_counts_before_the_crashes_that_it_brings_about() -> None:
    mistake = {"status": 2, "message": "dragoman: `data.max_tokens` must be larger."}
    found = decide(replace(CRASH, outcomes=[*CRASH.outcomes, mistake], warned=True), [])
    assert (found.decision, found.reason, found.status) == ("stop", "`data.max_tokens` must be larger.", 2)


def test_what_a_rank_says_of_another_is_no_cause() -> None:
    echo = asdict(
        explain(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31396."))
    )
    assert "a process died without a word" in decide(replace(CRASH, outcomes=[echo]), []).reason
    assert "RuntimeError: broken" in decide(replace(CRASH, outcomes=[echo, *CRASH.outcomes]), []).reason
    own = asdict(explain(ConnectionResetError(104, "Connection reset by peer")))  # of a file server
    assert "reset by peer" in decide(replace(CRASH, outcomes=[own]), []).reason


def test_a_rank_without_memory_may_say_so_twice() -> None:
    out = {"status": 75, "message": "dragoman: rank 0 ran out of memory.", "start_again": True}
    end = replace(CRASH, outcomes=[out])
    first = decide(end, [])
    assert decide(end, [{"crash": first.crash}]).decision == "requeue"


class Job:
    """Calls the script's commands as a job would."""

    def __init__(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self._patch = run, monkeypatch
        (run / "slurm").mkdir(parents=True)

    def call(self, job: str, restart: int, *words: str, said: str = "JobId=7 JobState=RUNNING Reason=None") -> int:
        outcomes = self.run / "slurm" / "outcomes" / f"{job}.{restart}"
        environment = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": f"{restart}", "DRAGOMAN_OUTCOMES": str(outcomes)}
        for name, value in environment.items():
            self._patch.setitem(os.environ, name, value)
        self._patch.setattr("sys.argv", ["requeue", words[0], str(self.run), *words[1:]])
        self._patch.setattr("sys.stdin", io.StringIO(said))
        return requeue.main()

    def says(self, state: str, started: float) -> None:
        document = {"state": state, "reason": "SIGUSR1", "step": 3, "started": started, "time": started + 1}
        (self.run / "state.json").write_text(json.dumps(document))


def test_the_life_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path / "run", monkeypatch)
    assert job.call("7", 0, "begin") == 0
    job.says("stopped", 1.0)
    assert job.call("7", 0, "end", "0") == REQUEUE
    assert job.call("7", 1, "begin") == 0
    assert job.call("7", 1, "end", "137") == REQUEUE  # what state.json says is of the start before
    assert job.call("7", 2, "begin") == 0
    assert job.call("7", 2, "end", "137") == 137
    # Someone has looked into it.
    assert job.call("7", 3, "begin") == 0
    job.says("finished", 2.0)
    assert job.call("7", 3, "end", "0") == 0
    assert job.call("8", 0, "begin") == NOTHING_TO_DO
    assert "there is nothing to do: the run has finished" in capsys.readouterr().out
    assert [record["reason"] for record in read_requeues(job.run)] == [
        "stopped by SIGUSR1 after step 3",
        "crash after step 0: a process died without a word (status 137)",
        "crash after step 0: a process died without a word (status 137); the second time in a row",
        "SLURM started the job again by itself: a node failed, or no time was left",
        "finished",
    ]


def test_the_next_of_a_chain_leaves_a_run_alone_that_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path / "run", monkeypatch)
    assert job.call("7", 0, "begin") == 0
    job.says("stopped", 1.0)
    assert job.call("7", 0, "end", "0", "--no-requeue") == 0
    assert job.call("8", 0, "begin") == 0
    job.says("stopped", 2.0)
    assert (
        job.call(
            "8", 0, "end", "0", said="JobId=8 JobState=COMPLETING RunTime=00:00:02 TimeLimit=UNLIMITED PreemptTime=None"
        )
        == 0
    )
    assert job.call("9", 0, "begin") == NOTHING_TO_DO
