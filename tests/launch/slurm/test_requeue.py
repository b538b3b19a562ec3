"""A job of SLURM from its beginning to its end, as its script calls it."""

import io
import json
import os
from pathlib import Path

import pytest

from launch.slurm import requeue
from launch.slurm.requeue import NOTHING_TO_DO, REQUEUE
from launch.slurm.restarts import read_decisions


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

    def prints(self, line: str) -> None:
        with (self.run / "slurm" / "job-7.log").open("a") as log:
            log.write(f"{line}\n\n")

    def says(self, state: str, started: float) -> None:
        document = {"state": state, "reason": "SIGUSR1", "step": 3, "started": started, "time": started + 1}
        (self.run / "state.json").write_text(json.dumps(document))


def test_the_life_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path / "run", monkeypatch)
    assert job.call("7", 0, "begin") == 0
    job.says("stopped", 1.0)
    assert job.call("7", 0, "end", "0") == REQUEUE
    assert job.call("7", 1, "begin") == 0
    job.prints("what srun printed last")
    assert job.call("7", 1, "end", "137") == REQUEUE  # state.json is of the start before
    assert job.call("7", 2, "begin") == 0
    job.prints("what srun printed last")
    assert job.call("7", 2, "end", "137") == 137
    # Someone has looked into it.
    assert job.call("7", 3, "begin") == 0
    job.says("finished", 2.0)
    assert job.call("7", 3, "end", "0") == 0
    assert job.call("8", 0, "begin") == NOTHING_TO_DO
    assert "there is nothing to do: the run has finished" in capsys.readouterr().out
    assert [record["trained"] for record in read_decisions(job.run)] == [True, False, False, False, True]
    assert [record["reason"] for record in read_decisions(job.run)] == [
        "stopped by SIGUSR1 after step 3",
        "failed to start: what srun printed last (status 137)",
        "failed to start: what srun printed last (status 137); the second time in a row",
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
