"""Whole runs through the command line: the same losses from every engine and number of processes, and after any end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.watching.status import RunReader
from tests.limits import patience, wait_until
from tests.runs import STEPS, Runs, assert_same_losses, is_alive, last_state, send_to_all, wait_for_state
from trainer.reporting.metrics_file import read_metrics
from trainer.run_directory.layout import checkpoint_step, list_checkpoints, log_path
from trainer.run_directory.state import read_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def reference(runs: Runs) -> list[dict[str, Any]]:
    """One process, undisturbed."""
    return runs.finished("reference")


@pytest.mark.parametrize(
    ("kind", "processes"),
    [("zero3", 1), *((kind, n) for n in (2, 4) for kind in ("ddp", "zero1", "zero2", "zero3"))],
)
def test_every_engine_and_world_size_makes_the_same_steps(
    runs: Runs, reference: list[dict[str, Any]], kind: str, processes: int
) -> None:
    steps = runs.finished(f"{kind}-{processes}", f"engine.kind={kind}", processes=processes)
    assert_same_losses(steps, reference, 1e-5)


def test_a_run_walks_over_engines_and_world_sizes(runs: Runs, reference: list[dict[str, Any]]) -> None:
    for last, (kind, processes) in zip(
        (3, 6, 9, 12), [("zero3", 4), ("ddp", 1), ("zero2", 2), ("zero1", 4)], strict=True
    ):
        runs.finished("walk", f"engine.kind={kind}", f"run.max_steps={last}", processes=processes)
    assert_same_losses(runs.steps("walk"), reference, 1e-5)


@pytest.mark.parametrize(
    ("kind", "precision", "killed_at"),
    [("ddp", "fp32", 4), ("zero1", "fp32", 8), ("zero2", "bf16", 7), ("zero3", "bf16", 5)],
)
def test_killed_and_started_again_it_makes_exactly_the_same_steps(
    runs: Runs, kind: str, precision: str, killed_at: int
) -> None:
    changes = (f"engine.kind={kind}", f"engine.precision={precision}")
    undisturbed, name = f"whole-{kind}-{precision}", f"killed-{kind}-{precision}"
    expected = runs.finished(undisturbed, *changes, processes=2)
    process = runs.start(name, *changes, processes=2)
    runs.wait_for_step(name, killed_at)
    wait_until(lambda: list_checkpoints(runs.folder / name), "no checkpoint")
    assert RunReader(runs.folder / name).read({}).state == "training"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_state(runs.folder / name, "died")
    resumed = runs.finished(name, *changes, processes=2)
    assert_same_losses(resumed, expected, 0.0)
    state = last_state(runs.folder / name)
    assert sum(file.startswith("state/") for file in state) == 2
    assert state == last_state(runs.folder / undisturbed), "weights, moments or lanes"
    events = [r for r in read_metrics(runs.folder / name / "metrics.jsonl") if r["kind"] == "event"]
    assert any(e["event"] == "resumed" and e["step"] > 0 for e in events)
    status = RunReader(runs.folder / name).read({})
    assert (status.state, status.step) == ("finished", STEPS)
    assert [restart.reason for restart in status.restarts] == ["killed without an error message"]
    for rank in range(2):
        lines = log_path(runs.folder / name, rank).read_text().splitlines()
        assert [f"rank {rank} of 2, " in line for line in lines if line.startswith("===")] == [True, True]


def read_said(run: Path) -> tuple[str, str, int]:
    said = read_state(run) or {}
    return said["state"], said["reason"], said["step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_saves_and_ends_well(runs: Runs, reference: list[dict[str, Any]], number: signal.Signals) -> None:
    """SIGUSR1 comes to every process, and twice."""
    name = f"stopped-{number.name}"
    changes = ("data.mode=stream", "data.workers=1") if number == signal.SIGUSR1 else ()
    process = runs.start(name, "checkpoint.every_steps=1000", *changes, processes=2)
    runs.wait_for_step(name, 4)
    if number == signal.SIGUSR1:
        for _ in range(2):
            send_to_all(process, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 0, errors
    assert number.name in errors
    (saved,) = (runs.folder / name / "checkpoints").glob("step-*")
    assert read_said(runs.folder / name) == ("stopped", number.name, checkpoint_step(saved))
    assert_same_losses(runs.finished(name, *changes, processes=2), reference, 1e-5)


def test_a_stop_signal_cuts_validation_short_and_the_next_start_makes_it(runs: Runs) -> None:
    valid = ("data.valid=[{builtin: phrasebook, split: valid, name: held}]", "evaluation.every_steps=3")
    changes = (*valid, "checkpoint.every_steps=1000", "run.max_steps=4")
    process = runs.start("cut-short", *changes, "evaluation.max_sentences=100000", processes=2)
    runs.wait_for_step("cut-short", 3)
    send_to_all(process, signal.SIGTERM)
    _, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 0, errors
    run = runs.folder / "cut-short"
    assert read_said(run) == ("stopped", "SIGTERM", 3)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]
    assert "validation cut short" in errors
    runs.finished("cut-short", *changes, "evaluation.max_sentences=4", processes=2)
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "valid"] == [3, 4]


def test_a_stop_signal_before_the_first_step_ends_well(runs: Runs, reference: list[dict[str, Any]]) -> None:
    process = runs.start("early", processes=2)
    logs = [log_path(runs.folder / "early", rank) for rank in range(2)]
    # From then on a signal sets a flag.
    wait_until(lambda: all(log.exists() for log in logs), "the ranks never began", 120)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=patience(60))
    assert process.returncode == 0, errors
    assert read_said(runs.folder / "early") == ("stopped", "SIGTERM", 0)
    assert_same_losses(runs.finished("early", processes=2), reference, 1e-5)


def test_a_rank_that_hangs_ends_the_job_and_the_next_start_goes_on(runs: Runs, reference: list[dict[str, Any]]) -> None:
    runs.finished("hung", "run.max_steps=3", processes=2)
    # Without saves: after one, a rank may be silent for as long as a save may take.
    process = runs.start("hung", "hang.minutes=0.1", "hang.factor=2", "checkpoint.every_steps=1000", processes=2)
    runs.wait_for_step("hung", 5)
    heartbeat = json.loads((runs.folder / "hung" / "heartbeats" / "rank-00001.json").read_text())
    os.kill(heartbeat["pid"], signal.SIGSTOP)
    _, errors = process.communicate(timeout=patience(120))
    assert process.returncode == 75, errors
    assert "rank 0" in errors
    assert "has made no progress" in errors
    assert "has made no progress" in log_path(runs.folder / "hung", 0).read_text()
    assert "trainer/training/loop.py" in (runs.folder / "hung" / "heartbeats" / "rank-00000.stacks").read_text()
    assert not is_alive(heartbeat["pid"])
    assert_same_losses(runs.finished("hung", processes=2), reference, 1e-5)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(runs: Runs, reference: list[dict[str, Any]]) -> None:
    runs.finished("damaged", "run.max_steps=6")
    path = runs.folder / "damaged" / "checkpoints" / "step-00000006"
    state = next((path / "state").iterdir())
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 255
    state.write_bytes(content)
    ended = runs.train("damaged")
    assert ended.returncode == 0
    assert f"{path} is damaged" in ended.stderr
    assert "resumed from step 3" in ended.stderr
    assert_same_losses(runs.steps("damaged"), reference, 0.0)


def test_a_run_whose_every_checkpoint_is_damaged_is_not_started_anew(runs: Runs) -> None:
    runs.finished("ruined", "run.max_steps=3")
    path = runs.folder / "ruined" / "checkpoints" / "step-00000003"
    (path / "lanes.json").write_text("{}")
    ended = runs.train("ruined")
    assert ended.returncode == 2
    assert f"{path} is damaged (lanes.json has 2 bytes" in ended.stderr.splitlines()[-1]
    assert path.exists()
    assert [record["step"] for record in runs.steps("ruined")] == [1, 2, 3]


def test_a_run_of_two_vocabularies_is_trained_resumed_averaged_and_used(runs: Runs) -> None:
    changes = (
        "tokenizer.joint=false", "tokenizer.path=null", "tokenizer.vocab_size=400", "model.tied_embeddings=decoder",
        "data.valid=[{builtin: phrasebook, split: valid, name: held, limit: 5}]",
    )  # fmt: skip
    whole = runs.finished("separate", *changes, "run.max_steps=6")
    runs.finished("separate-resumed", *changes, "run.max_steps=3")
    resumed = runs.finished("separate-resumed", *changes, "run.max_steps=6")
    assert [(s["step"], s["loss"]) for s in resumed] == [(s["step"], s["loss"]) for s in whole]
    assert [s["step"] for s in whole] == list(range(1, 7))
    names = {"tokenizer.source.model", "tokenizer.target.model"}
    run, averaged = runs.folder / "separate", runs.folder / "separate-averaged"
    commands = (["average", str(run), "--last", "2", "--output", str(averaged)], ["translate", str(averaged)])
    for command in commands:
        ended = subprocess.run(
            [sys.executable, "-m", "launch", *command],
            env=runs.environment, input="un chat\n", capture_output=True, text=True, timeout=patience(240), check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 1
    for directory in (run, averaged):
        assert {path.name for path in directory.glob("tokenizer*.model")} == names


def test_another_configuration_in_the_same_directory_is_refused(runs: Runs) -> None:
    before = runs.finished("other", "run.max_steps=2")
    kept = (runs.folder / "other" / "config.yaml").read_text()
    ended = runs.train("other", "model.d_ff=128")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "model.d_ff" in ended.stderr
    assert (runs.folder / "other" / "config.yaml").read_text() == kept
    assert runs.steps("other") == before


def test_a_finished_run_started_again_says_so_and_does_nothing(runs: Runs) -> None:
    before = runs.finished("again", "run.max_steps=3")
    started = runs.train("again", "run.max_steps=3")
    assert started.returncode == 0
    assert "finished at step 3" in started.stderr
    assert runs.steps("again") == before


def test_validation_scores_agree_whatever_the_number_of_processes(runs: Runs) -> None:
    changes = ("data.valid=[{builtin: phrasebook, split: valid, name: held, limit: 30}]", "run.max_steps=2")
    scores = []
    for processes, kind in ((1, "ddp"), (2, "zero3"), (4, "zero1")):
        name = f"valid-{processes}"
        runs.finished(name, *changes, f"engine.kind={kind}", processes=processes)
        records = read_metrics(runs.folder / name / "metrics.jsonl")
        (record,) = [r for r in records if r["kind"] == "valid"]
        scores.append(record)
    assert scores[0]["name"] == "held"
    for other in scores[1:]:
        assert other["nll"] == pytest.approx(scores[0]["nll"], rel=1e-5)
        assert other["bleu"] == pytest.approx(scores[0]["bleu"], abs=1e-6)


def test_a_full_disk_costs_nothing_but_the_work_since_the_last_checkpoint(runs: Runs) -> None:
    disk = runs.folder / "small_disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", disk]).returncode:
        pytest.skip("the full disk was not run: mounting a small tmpfs needs root")
    try:
        ended = runs.train("small_disk/run", "checkpoint.every_steps=2")
        assert ended.returncode == 2, ended.stderr
        assert "No space left" in ended.stderr or "no space" in ended.stderr
        assert "Traceback" not in ended.stderr
        published = list((disk / "run" / "checkpoints").glob("step-*"))
        assert published
        assert all(json.loads((path / "manifest.json").read_text()) for path in published)
    finally:
        subprocess.run(["umount", disk], check=True)
