"""A rank that hangs is noticed, leaves its stacks behind and ends the job."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.configuration.sections import HangConfig
from trainer.errors import ExitStatus
from trainer.run_directory import watchdog
from trainer.run_directory.watchdog import Watchdog


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_HEARTBEATS", 0.02)
    monkeypatch.setattr(watchdog, "_SECONDS_FOR_A_FILE", 0.5)


def test_silence_ends_the_job_and_shows_where_it_hung(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said, heard = list[str](), threading.Event()

    def give_up(message: str) -> None:
        said.append(message)
        heard.set()

    dog = Watchdog(tmp_path, 3, HangConfig(phase_minutes=0.2 / 60), give_up).start()
    assert heard.wait(5)
    dog.close()
    assert "rank 3" in said[0]
    assert "no progress for 0 s in the phase 'start' after step 0" in said[0]
    stacks = (tmp_path / "heartbeats" / "rank-00003.stacks").read_text()
    assert "test_silence_ends_the_job" in stacks
    assert "test_silence_ends_the_job" in capfd.readouterr().err


def test_a_rank_that_steps_is_left_alone_and_its_heartbeat_tells_where_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    dog = Watchdog(tmp_path, 0, HangConfig(factor=2, minutes=0.3 / 60), said.append).start()
    for step in range(1, 12):
        time.sleep(0.05)
        dog.beat(step)
    beat = json.loads((tmp_path / "heartbeats" / "rank-00000.json").read_text())
    dog.close()
    assert said == []
    assert beat["phase"] == "training"
    assert 0 < beat["step"] <= 11


def test_slow_steps_raise_the_limit_and_long_phases_do_not_count_as_steps(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, 0, HangConfig(factor=10, minutes=0.001, phase_minutes=2), print)
    assert dog.limit == 120
    for step in range(1, 5):
        time.sleep(0.02)
        dog.beat(step)
    assert dog.limit > 0.15
    with dog.phase("validation"):
        assert dog.limit == 120
        time.sleep(0.3)
    dog.beat(5)
    dog.beat(6)
    assert dog.limit < 0.4


def test_a_dead_file_system_does_not_keep_the_watchdog_from_ending_the_job(tmp_path: Path) -> None:
    """Opening a pipe that nobody reads blocks, as a file of a server that is gone does."""
    (tmp_path / "heartbeats").mkdir()
    for suffix in ("tmp", "stacks"):
        os.mkfifo(tmp_path / "heartbeats" / f"rank-00000.{suffix}")
    ended = threading.Event()
    dog = Watchdog(tmp_path, 0, HangConfig(phase_minutes=0.2 / 60), lambda message: ended.set()).start()
    assert ended.wait(10)
    dog.close()


@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_a_process_that_gives_up_ends_with_a_status_of_its_own(stderr: str) -> None:
    program = (
        "import sys, trainer.run_directory.watchdog as w; sys.stderr = open(1, 'w') if %r else sys.stderr; "
        "w.end_process('why')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program % (stderr == "closed")],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.DEVNULL if stderr == "open" else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == ExitStatus.TRY_AGAIN
    assert "why" in (ended.stderr or "") + (ended.stdout or "")
