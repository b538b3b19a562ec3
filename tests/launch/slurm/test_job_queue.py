"""SLURM is asked by its own commands, here scripts that answer as they do."""

import time
from pathlib import Path

import pytest

from launch.slurm import job_queue
from launch.slurm.job_queue import Job, find_jobs


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_queue_knows_first_and_accounting_the_rest(commands: Path) -> None:
    put(
        commands,
        "squeue",
        "echo '17|PENDING|Resources||1:00:00|2026-11-27T09:00:00'; echo '18|RUNNING|None|n1|N/A|N/A'",
    )
    put(commands, "sacct", "case \"$*\" in *--jobs=19*) echo '19|TIMEOUT';; esac")
    assert find_jobs(["17", "18", "19", "a b", "17"]) == {
        "17": Job("17", "PENDING", "Resources", None, "1:00:00", "2026-11-27T09:00:00"),
        "18": Job("18", "RUNNING", None, "n1", None, None),
        "19": Job("19", "TIMEOUT"),
    }


def test_a_queue_that_does_not_answer_is_left(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "_SECONDS_TO_ANSWER", 0.2)
    for name in ("squeue", "sacct"):
        put(commands, name, "exec sleep 60")
    start = time.monotonic()
    assert find_jobs(["17"]) == {"17": Job("17", "unknown", "SLURM does not answer")}
    assert time.monotonic() - start < 20


def test_a_queue_that_fails_or_is_not_there_says_nothing(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    put(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert find_jobs(["17"]) == {}
    monkeypatch.setenv("PATH", "")
    assert find_jobs(["17"]) == {}
