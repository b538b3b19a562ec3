"""Workers get the signals, die with their parent, and tell a mistake once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.failure import Failure
from launch.processes import local
from launch.worker_failures import process_id_path
from tests.limits import patience

QUICKSTART = str(Path(__file__).parents[3] / "configs" / "quickstart.yaml")
JOIN = "import sys, time, pathlib; from launch import worker; worker.join(pathlib.Path(sys.argv[1])); time.sleep(60)"


def start_worker(folder: Path) -> subprocess.Popen[bytes]:
    """A process that joins a launch as a worker does and then has nothing to do."""
    command = [sys.executable, "-c", JOIN, str(folder)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + patience(30)
    while not process_id_path(folder, worker.pid).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return worker


def test_a_worker_ends_when_its_parent_has_died(tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    assert worker.poll() is None
    assert worker.stdin is not None
    worker.stdin.close()  # what the end of the parent does
    assert worker.wait(timeout=patience(30)) == -signal.SIGKILL


def test_signals_reach_workers_that_start_later(tmp_path: Path) -> None:
    workers = local.Workers(tmp_path)
    workers.remember(signal.SIGTERM, None)
    workers.forward_signals()
    worker = start_worker(tmp_path)
    workers.forward_signals()
    assert worker.wait(timeout=patience(30)) == 128 + signal.SIGTERM
    workers.forward_signals()  # to a worker that has gone


def test_workers_can_be_killed(tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    local.Workers(tmp_path).kill()
    assert worker.wait(timeout=patience(30)) == -signal.SIGKILL


def test_three_interrupts_end_workers_that_do_not_answer(tmp_path: Path) -> None:
    workers = local.Workers(tmp_path)
    for expected in (False, False, True):
        workers.remember(signal.SIGINT, None)
        assert workers.must_end is expected
    assert workers.failure(None) == Failure(130, "")


def test_a_worker_that_vanished_is_a_defect(tmp_path: Path) -> None:
    workers = local.Workers(tmp_path)
    assert workers.failure(0) is None
    failure = workers.failure(1)
    assert failure is not None
    assert failure.status == 1


@pytest.mark.parametrize(
    ("devices", "chosen", "expected"),
    [([], None, 0), ([], "0,1", 0), (["a", "b"], None, 2), (["a", "b"], "1", 1), (["a"], "", 0), (["a"], "-1", 0)],
)
def test_gpus_are_counted_as_cuda_would(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], chosen: str | None, expected: int
) -> None:
    monkeypatch.setattr("glob.glob", lambda pattern: devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert local.visible_gpus() == expected


def test_cores_are_shared_among_processes_unless_the_user_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("os.environ", environment := {"DS_ACCELERATOR": "xpu"})
    local.prepare_environment(3, on_cpu=True)
    assert environment == {"DS_ACCELERATOR": "xpu", "OMP_NUM_THREADS": "2"}


@pytest.mark.slow
def test_a_mistake_of_all_workers_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    failure = local.run_workers(["nowhere.yaml"], 2)
    assert failure == Failure(2, "dragoman: The configuration nowhere.yaml cannot be read: No such file or directory.")
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_users_own_modules_are_not_imported_in_our_place(tmp_path: Path) -> None:
    """Neither from the current folder nor from PYTHONPATH."""
    for name in ("here/yaml.py", "here/model.py", "there/launch.py", "there/model.py", "there/trainer.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')")
    root = Path(local.__file__).parents[2]
    code = (
        "import dragoman_script; from launch.processes.local import run_workers as f; print(f(['no.yaml'], 2).status)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'there'}:{root}", "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=True
    )
    assert (result.stdout.strip(), result.stderr) == ("2", "")
