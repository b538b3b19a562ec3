"""Restarts with what each came after, and the saves."""

from pathlib import Path
from typing import Any

from launch.slurm.restarts import read_decisions
from launch.watching.run_history import Moment, causes, last_saves, restarts


def start(event: str, step: int, time: float | None) -> dict[str, Any]:
    return {"event": event, "step": step, "time": time, "host": "n1", "world_size": 2, "slurm_job": "7"}


def test_each_restart_has_its_reason() -> None:
    events = [
        start("started", 0, 10.0),
        {"event": "ended", "step": 40, "time": 20.0, "detail": "SIGUSR1"},
        start("resumed", 40, 30.0),
        start("resumed", 60, 50.0),
        start("resumed", 60, 70.0),
    ]
    failures = [
        {"time": 45.0, "rank": 1, "error": "OSError: no disk", "step": 61},
        {"time": 45.5, "rank": 0, "error": "RuntimeError: connection closed", "step": 61},
    ]
    requeues: list[dict[str, Any]] = [{"time": 21.0, "job": 7, "reason": "the time limit"}, {"no": "reason"}]
    found = restarts(events, failures, requeues)
    assert [(restart.step, restart.reason) for restart in found] == [
        (40, "SIGUSR1; SLURM: the time limit"),
        (60, "rank 1: OSError: no disk"),
        (60, "killed without an error message"),
    ]
    assert (found[0].host, found[0].world_size, found[0].slurm_job, found[0].time) == ("n1", 2, "7", 30.0)


def test_who_only_lost_another_rank_counts_where_nobody_knows_more() -> None:
    events = [start("started", 0, 10.0), {"event": "saved", "step": 5, "time": 12.0}, start("resumed", 5, 20.0)]
    alone = {"time": 15.0, "rank": 0, "error": "closed by peer", "lost_peer": True}
    echo = {"time": 24.0, "rank": 0, "error": "closed by peer", "lost_peer": True}
    cause = {"time": 25.0, "rank": 1, "error": "OSError: no disk", "lost_peer": False}
    assert causes([alone, echo, cause], events) == [alone, cause]
    assert causes([alone, echo], events) == [alone, echo]


def test_runs_from_before_starts_had_a_time_and_a_first_event_have_restarts_too() -> None:
    assert [r.reason for r in restarts([{"event": "resumed", "step": 3}], [], [])] == [
        "killed without an error message"
    ]


def test_a_failed_save_counts_until_the_next_good_one(tmp_path: Path) -> None:
    assert last_saves(tmp_path, []) == (None, None)
    for name in ("step-00000010", "step-00000020", ".tmp-step-00000030"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    events = [
        {"event": "save failed", "step": 15, "time": 1.0, "detail": "old"},
        {"event": "saved", "step": 20, "time": 2.0, "detail": "…"},
    ]
    saved, failed = last_saves(tmp_path, events)
    assert saved is not None
    assert (saved.step, failed) == (20, None)
    events.append({"event": "save failed", "step": 30, "time": 3.0, "detail": "No space left on device"})
    assert last_saves(tmp_path, events)[1] == Moment(30, 3.0, "No space left on device")


def test_requeues_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    assert read_decisions(tmp_path) == []
    (tmp_path / "restarts.jsonl").write_text('{"job": 1, "reason": "preempted"}\n[]\n{"job": 2, "rea')
    assert read_decisions(tmp_path) == [{"job": 1, "reason": "preempted"}]
