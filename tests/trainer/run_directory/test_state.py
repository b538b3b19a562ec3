"""What a run reports to observers outside of it."""

import json
from pathlib import Path

import pytest

from trainer.run_directory.layout import FAILURES, STATE
from trainer.run_directory.state import RunState, read_failures, read_state
from trainer.run_directory.stop_reason import StopReason


@pytest.mark.parametrize(
    ("reason", "state"), [("finished", "finished"), ("stopped early", "finished"), ("SIGUSR1", "stopped")]
)
def test_the_end_says_whether_the_run_can_go_on(tmp_path: Path, reason: str, state: str) -> None:
    run = RunState(tmp_path, rank=0, world_size=2, max_steps=9)
    run.training(3)
    document = read_state(tmp_path)
    assert document is not None
    assert (document["state"], document["step"], document["world_size"]) == ("training", 3, 2)
    run.ended(7, StopReason(reason))
    document = read_state(tmp_path)
    assert document is not None
    assert (document["state"], document["reason"], document["step"]) == (state, reason, 7)


def test_every_rank_tells_its_failure_and_only_rank_0_the_state(tmp_path: Path) -> None:
    first, second = (RunState(tmp_path, rank, 2, max_steps=9) for rank in (0, 1))
    for run in (first, second):
        run.training(4)
    second.failed(6, ValueError("of rank 1"))
    assert (read_state(tmp_path) or {})["state"] == "training"
    first.failed(0, RuntimeError("before the first step\nmore"))
    assert (read_state(tmp_path) or {})["reason"] == "RuntimeError: before the first step"
    with (tmp_path / FAILURES).open("a") as file:
        file.write('{"torn": ')
    failures = read_failures(tmp_path)
    assert [(f["rank"], f["step"]) for f in failures] == [(1, 6), (0, 4)]
    assert "ValueError: of rank 1" in failures[0]["traceback"]


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    (tmp_path / STATE).write_text(json.dumps([]))
    assert read_state(tmp_path) is None
    assert read_failures(tmp_path) == []


def test_a_directory_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    run = RunState(tmp_path / "missing", rank=0, world_size=1, max_steps=1)
    run.training(0)
    run.failed(0, ValueError("x"))
