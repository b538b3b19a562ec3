"""What `dragoman status` says is true: of living, ended, failed, dead and silent runs."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cli import main
from launch.slurm.job_queue import Job
from launch.watching.status import RunReader, RunStatus, find_runs
from tests.limits import patience
from trainer.errors import UserError
from trainer.reporting.metrics_file import MetricsFile
from trainer.run_directory.ownership import owning
from trainer.run_directory.rank_log import RankLog
from trainer.run_directory.state import RunState

TRAIN = {"kind": "train", "step": 40, "loss": 3.25, "nll": 3.0, "tokens_per_second": 1234.5, "eta_seconds": 600.0}
VALID = {"kind": "valid", "name": "news", "nll": 3.5, "bleu": 20.0}
LOOK = """
import sys
from trainer.run_directory.ownership import find_owner
print(flush=True)
while True:
    find_owner(sys.argv[1])
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two ranks that trains, as far as files can tell; nobody owns it."""
    directory = tmp_path / "runs" / "first"
    directory.mkdir(parents=True)
    with owning(directory):
        pass
    metrics = MetricsFile(directory / "metrics.jsonl")
    started = {"kind": "event", "step": 0, "event": "started", "time": time.time() - 100, "engine": "zero2"}
    for record in (started, VALID | {"step": 20, "bleu": 21.5}, VALID | {"step": 40}, TRAIN):
        metrics.write(record)
    RunState(directory, 0, 2, max_steps=100).training(0)
    for rank in range(2):
        beat(directory, rank)
    return directory


def beat(directory: Path, rank: int, **more: Any) -> None:
    path = directory / "heartbeats" / f"rank-{rank:05d}.json"
    path.parent.mkdir(exist_ok=True)
    said = {"step": 42, "phase": "training", "time": time.time(), "idle": 1.0, "limit": 900.0, "host": "n1"}
    path.write_text(json.dumps(said | more))


def read(directory: Path) -> RunStatus:
    return RunReader(directory).read({})


def test_a_run_that_trains(run: Path) -> None:
    (run / "checkpoints" / "step-00000020").mkdir(parents=True)
    with owning(run):
        status = read(run)
    assert (status.state, status.detail) == ("training", f"process {os.getpid()} on {socket.gethostname()}")
    assert (status.step, status.max_steps, status.world_size, status.engine) == (42, 100, 2, "zero2")
    assert (status.loss, status.tokens_per_second) == (3.25, 1234.5)
    assert status.eta_seconds is not None
    assert 500 < status.eta_seconds <= 600
    (score,) = status.scores
    assert (score.bleu, score.step, score.best_bleu, score.best_step) == (20.0, 40, 21.5, 20)
    assert status.checkpoint is not None
    assert status.checkpoint.step == 20
    assert (status.troubled_ranks, status.failures, status.restarts) == ([], [], [])


def test_a_checkpoint_is_newer_than_reports_and_heartbeats(run: Path) -> None:
    (run / "checkpoints" / "step-00000050").mkdir(parents=True)
    assert read(run).step == 50


def test_a_run_that_nobody_owns_has_died_whatever_it_says_of_itself(run: Path) -> None:
    with RankLog(run, 1, 2) as log:
        log.keep("terminate called after throwing an instance of 'c10::Error'")
    beat(run, 1, time=time.time() - 10)
    status = read(run)
    assert status.state == "died"
    assert status.last_alive is not None
    assert time.time() - status.last_alive < 30
    assert status.last_lines[-1].startswith("terminate called")
    assert status.eta_seconds is None


def test_a_run_on_another_machine_whose_locks_are_not_seen_lives_by_its_heartbeats(run: Path) -> None:
    said = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(said | {"host": "elsewhere"}))
    assert read(run).state == "training"
    for rank in range(2):
        beat(run, rank, time=time.time() - 100)
    (run / "state.json").write_text(json.dumps(said | {"host": "elsewhere", "started": time.time() - 1000}))
    assert read(run).state == "died"


def test_where_the_file_system_has_no_locks_heartbeats_tell(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(directory: Path) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("launch.watching.status.find_owner", no_locks)
    assert read(run).state == "training"


def test_a_new_start_is_told_from_what_the_last_one_left(run: Path) -> None:
    said = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(said | {"pid": said["pid"] + 1, "state": "stopped"}))
    assert read(run).state == "stopped"
    (run / "state.json").write_text(json.dumps(said | {"pid": said["pid"] + 1, "state": "failed"}))
    with owning(run):
        assert read(run).state == "starting"


def test_silent_and_slow_ranks_are_named(run: Path) -> None:
    said = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(said | {"world_size": 4, "started": time.time() - 1000}))
    beat(run, 1, time=time.time() - 90)
    beat(run, 2, idle=400.0, phase="validation")
    beat(run, 7, time=time.time() - 90)  # of an earlier start with more ranks
    with owning(run):
        silent, slow, missing = read(run).troubled_ranks
    assert silent.startswith("rank 1 on n1 has been silent for 90 s")
    assert "rank 2 on n1 has made no progress for 400 s in the phase 'validation' after step 42" in slow
    assert missing == "rank 3 has no heartbeat"


def test_a_failure_is_told_with_its_last_lines(run: Path) -> None:
    try:
        raise ValueError("a bad thing")
    except ValueError as error:
        RunState(run, 0, 2, max_steps=100).failed(42, error)
    status = read(run)
    assert (status.state, status.detail) == ("failed", "ValueError: a bad thing")
    assert status.failures[0].text == f"rank 0 on {socket.gethostname()}: ValueError: a bad thing"
    assert status.last_lines[-1] == "ValueError: a bad thing"


def test_a_rank_that_only_lost_another_one_does_not_hide_the_cause(run: Path) -> None:
    zero, one = (RunState(run, rank, 2, max_steps=100) for rank in (0, 1))
    zero.training(0)
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [n1]:7: Connection reset by peer")
    zero.failed(42, lost)
    status = read(run)
    assert status.detail.endswith("Connection reset by peer")  # there is nothing better
    assert len(status.failures) == 1
    one.failed(42, OSError("no such disk"))
    status = read(run)
    assert (status.state, status.detail) == ("failed", "rank 1: OSError: no such disk")
    assert [failure.text for failure in status.failures] == [f"rank 1 on {socket.gethostname()}: OSError: no such disk"]
    assert status.last_lines[-1] == "OSError: no such disk"


def test_the_newest_job_that_slurm_knows_speaks_for_the_run(run: Path) -> None:
    said = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(said | {"slurm_job": "8"}))
    (run / "restarts.jsonl").write_text('{"job": 7, "reason": "preempted"}\n')
    reader = RunReader(run)
    assert reader.job_ids == ["7", "8"]
    waiting = Job("7", "PENDING")
    assert reader.read({"7": waiting}).job == waiting


def test_looking_never_keeps_a_training_from_starting(run: Path) -> None:
    looker = subprocess.Popen([sys.executable, "-c", LOOK, str(run)], stdout=subprocess.PIPE)
    try:
        assert looker.stdout is not None
        looker.stdout.readline()
        for _ in range(20):
            with owning(run):
                pass
    finally:
        looker.kill()
        looker.communicate()


def test_runs_are_found_in_a_folder_and_in_its_folders(run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "sweep" / "1").mkdir(parents=True)
    with owning(tmp_path / "runs" / "sweep" / "1"):
        pass
    assert find_runs(run) == [run]
    assert find_runs(tmp_path / "runs") == [run, tmp_path / "runs" / "sweep" / "1"]
    for name in ("submitted", "model"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "config.yaml").touch()
    (tmp_path / "runs" / "model" / "model.safetensors").touch()
    assert tmp_path / "runs" / "submitted" in find_runs(tmp_path / "runs")
    assert tmp_path / "runs" / "model" not in find_runs(tmp_path / "runs")
    assert read(tmp_path / "runs" / "submitted").state == "new"
    for missing in ("nowhere", "runs/first/heartbeats"):
        with pytest.raises(UserError, match="name a run directory"):
            find_runs(tmp_path / missing)


def test_the_text_the_table_and_the_document(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with owning(run):
        assert main(["status", str(run)]) == 0
        text = capsys.readouterr().out
        assert main(["status"]) == 0
        table = capsys.readouterr().out
        assert main(["status", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
    for fact in ("training", "42 of 100 (42.0%)", "3.2500", "1,234 target tokens", "best BLEU 21.50 at step 20"):
        assert fact in text
    assert "none yet" in text
    assert [part for part in ("runs/first", "training", "42/100", "21.50", "1,234") if part not in table] == []
    assert (document[0]["state"], document[0]["step"]) == ("training", 42)


def test_text_of_a_run_cannot_act_on_the_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunState(run, 0, 2, max_steps=100).failed(42, ValueError("\x1b[2J[red]"))
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]" in shown


@pytest.mark.parametrize("command", [["status", "--watch", "0.2", "--json"], ["logs", "--follow"]])
def test_watching_goes_on_until_ctrl_c_and_ends_well(run: Path, command: list[str]) -> None:
    with RankLog(run, 0, 2) as log:
        log.keep("one")
        shown = subprocess.Popen(
            [sys.executable, "-m", "launch", command[0], str(run), *command[1:]],
            cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # A shell's background jobs ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert shown.stdout is not None
        first, second = shown.stdout.readline(), shown.stdout.readline()
        log.keep("two")
        third = shown.stdout.readline()
    shown.send_signal(2)
    _, errors = shown.communicate(timeout=patience(30))
    assert (shown.returncode, errors) == (0, "")
    if command[0] == "logs":
        assert (first[:3], second, third) == ("===", "one\n", "two\n")
    else:
        assert all(json.loads(line)["step"] == 42 for line in (first, second, third))


def test_the_log_of_a_rank(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RankLog(run, 1, 2) as log:
        log.keep("first\nsecond")
    assert main(["logs", str(run), "--rank", "1", "--lines", "1"]) == 0
    assert capsys.readouterr().out == "second\n"
    assert main(["logs", str(run)]) == 2
    assert "up to rank 1" in capsys.readouterr().err
    assert main(["logs", str(tmp_path)]) == 2
    assert "there are no logs" in capsys.readouterr().err


def test_status_needs_no_torch(run: Path) -> None:
    code = f"import sys; from launch.cli import main; main(['status', {str(run)!r}]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, check=True)
