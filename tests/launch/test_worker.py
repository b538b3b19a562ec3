"""A worker that any launcher started reports a user's mistake as the command line does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import worker
from launch.processes.launcher_variables import REQUIRED
from launch.worker import main
from launch.worker_failures import LAUNCH_FOLDER, OUTCOMES_FOLDER, read_first_failure, read_outcomes
from tests.limits import wait_until
from tests.runs import Runs, descendants, is_alive
from trainer.run_directory.watchdog import read_heartbeats

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "`python -m launch.worker CONFIG"),
        (["--local_rank=0"], "`python -m launch.worker CONFIG"),  # what `deepspeed` adds
        (["--local_rank=0", QUICKSTART, "run.sede=1"], "did you mean `run.seed`?"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LAUNCH_FOLDER, raising=False)
    monkeypatch.setattr("sys.argv", ["worker", *arguments])
    assert main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dragoman: ")
    assert errors.count("\n") == 1
    assert part in errors


def test_the_first_failure_of_a_launch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH_FOLDER, str(tmp_path))
    monkeypatch.setattr(worker, "join", lambda folder: None)
    monkeypatch.setattr(worker, "SECONDS_TO_BE_ENDED", 0)
    for arguments in ([QUICKSTART, "run.sede=1"], ["nowhere.yaml"]):
        monkeypatch.setattr("sys.argv", ["worker", *arguments])
        assert main() == 2
    failure = read_first_failure(tmp_path)
    assert failure.status == 2
    assert "run.sede" in failure.message


def test_a_pipe_that_breaks_is_told_to_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str], folder: Path | None) -> None:
        raise BrokenPipeError("of a process that tokenises")

    monkeypatch.setattr(worker, "_train", fail)
    monkeypatch.setenv(OUTCOMES_FOLDER, str(tmp_path))
    monkeypatch.delenv(LAUNCH_FOLDER, raising=False)
    assert main() == 1
    assert "of a process that tokenises" in capsys.readouterr().err
    assert "of a process that tokenises" in read_outcomes(tmp_path)[0]["message"]


@pytest.mark.slow
def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """Neither the ranks of a plain torchrun nor the processes that tokenise for them."""
    runs = Runs(tmp_path)
    changes = ("data.mode=stream", "data.workers=1", "run.max_steps=100000")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "launch.worker", str(runs.config), *runs.changes("orphans", *changes)]
    root = str(Path(__file__).parents[2])
    launcher = subprocess.Popen(
        command, cwd=tmp_path, env=runs.environment | {"PYTHONPATH": root}, stderr=subprocess.DEVNULL
    )
    try:
        runs.wait_for_step("orphans", 3)
        ranks = {beat["pid"] for beat in read_heartbeats(runs.folder / "orphans").values()}
        started = descendants(launcher.pid)
        assert len(ranks) == 2
        assert ranks < set(started), "the ranks, and what they have started"
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    wait_until(lambda: not any(map(is_alive, started)), "a process outlives its launcher")


def test_an_incomplete_description_of_the_processes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything waits for other processes."""
    for name in (LAUNCH_FOLDER, *REQUIRED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([QUICKSTART]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dragoman: the environment has WORLD_SIZE but lacks RANK")
    assert errors.count("\n") == 1


def test_without_a_launcher_a_parent_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup python -m launch.worker CONFIG &`, and then the shell ends."""
    for name in (LAUNCH_FOLDER, "RANK", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    started: list[str] = []
    monkeypatch.setattr(worker.threading, "Thread", lambda **options: started.append(str(options)))
    monkeypatch.setattr("sys.argv", ["worker", str(tmp_path / "nowhere.yaml")])
    assert main() == 2
    assert not started
