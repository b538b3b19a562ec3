"""Whole runs through the command line: the same losses from every engine and number of processes, and after any end."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.watching.status import RunReader
from trainer.reporting.metrics_file import read_metrics
from trainer.run_directory.layout import MANIFEST, checkpoint_step, list_checkpoints, log_path
from trainer.run_directory.state import read_state

pytestmark = pytest.mark.slow

STEPS = 20


class Runs:
    """Starts runs of one small configuration in a folder; all share one tokenizer and one token store."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any] | None = None):
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(configuration or CONFIGURATION))
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        first = self.train("prepare_only", "run.max_steps=1")
        assert first.returncode == 0, first.stderr
        shutil.copy(folder / "prepare_only" / "tokenizer.model", folder / "tokenizer.model")

    def command(self, name: str, *changes: str, processes: int = 1) -> list[str]:
        shared = [f"data.cache={self.folder / 'store'}", f"run.directory={self.folder / name}"]
        if (self.folder / "tokenizer.model").exists():
            shared.append(f"tokenizer.path={self.folder / 'tokenizer.model'}")
        train = [sys.executable, "-m", "launch", "train", str(self.config), "--processes", str(processes)]
        return [*train, *shared, *changes]

    def train(self, name: str, *changes: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        command = self.command(name, *changes, processes=processes)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240, check=False)

    def start(self, name: str, *changes: str, processes: int = 1) -> "subprocess.Popen[str]":
        command = self.command(name, *changes, processes=processes)
        return subprocess.Popen(
            command, env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def steps(self, name: str) -> list[dict[str, Any]]:
        return [r for r in read_metrics(self.folder / name / "metrics.jsonl") if r["kind"] == "train"]

    def wait_for_step(self, name: str, step: int) -> None:
        deadline = time.monotonic() + 120
        path = self.folder / name / "metrics.jsonl"
        while not path.exists() or not any(r["step"] >= step for r in self.steps(name)):
            assert time.monotonic() < deadline, f"{name} never came to step {step}"
            time.sleep(0.05)

    def finished(self, name: str, *changes: str, processes: int = 1) -> list[dict[str, Any]]:
        ended = self.train(name, *changes, processes=processes)
        assert ended.returncode == 0, ended.stderr
        return self.steps(name)


CONFIGURATION: dict[str, Any] = {
    "run": {"directory": "set below", "max_steps": STEPS},
    "model": {
        "d_model": 32, "d_ff": 64, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.1
    },
    "tokenizer": {"kind": "bpe", "vocab_size": 500},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 3000}],
        "max_length": 64, "max_tokens": 128, "micro_batches_per_step": 8, "num_lanes": 8, "window": 256,
    },
    "optimizer": {"peak_lr": 2.0e-3, "warmup_steps": 10, "eps": 1.0e-6, "clip": 0.5},
    "engine": {"kind": "ddp", "precision": "fp32", "activation_checkpointing": "full"},
    "checkpoint": {"every_steps": 5, "keep_last": 10},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether a process is more than an entry that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_state(run: Path, state: str) -> None:
    """The workers end a moment after what has started them."""
    deadline = time.monotonic() + 30
    while RunReader(run).read({}).state != state:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def reference(runs: Runs) -> list[dict[str, Any]]:
    """One process, undisturbed."""
    return runs.finished("reference")


def assert_same_losses(
    steps: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    relative: float,
    keys: Sequence[str] = ("loss", "nll", "grad_norm"),
) -> None:
    assert [s["step"] for s in steps] == [s["step"] for s in expected] == list(range(1, STEPS + 1))
    for found, wanted in zip(steps, expected, strict=True):
        assert found["num_target_tokens"] == wanted["num_target_tokens"]
        for key in keys:
            assert found[key] == pytest.approx(wanted[key], rel=relative, abs=0), (found["step"], key)


@pytest.mark.parametrize(
    ("kind", "processes"),
    [*itertools.product(["ddp", "zero1", "zero2", "zero3"], [2, 4]), ("ddp", 1), ("zero3", 1)],
)
def test_every_engine_and_world_size_makes_the_same_steps(
    runs: Runs, reference: list[dict[str, Any]], kind: str, processes: int
) -> None:
    steps = runs.finished(f"{kind}-{processes}", f"engine.kind={kind}", processes=processes)
    assert_same_losses(steps, reference, 1e-5)


def test_a_run_walks_over_engines_and_world_sizes(runs: Runs, reference: list[dict[str, Any]]) -> None:
    for last, (kind, processes) in zip(
        (5, 10, 15, 20), [("zero3", 4), ("ddp", 1), ("zero2", 2), ("zero1", 4)], strict=True
    ):
        runs.finished("walk", f"engine.kind={kind}", f"run.max_steps={last}", processes=processes)
    assert_same_losses(runs.steps("walk"), reference, 1e-5)


def last_state(run: Path) -> dict[str, Any]:
    """What the last checkpoint holds, byte for byte: the digests of the state's files, and where the lanes stand."""
    newest = list_checkpoints(run)[-1]
    files = json.loads((newest / MANIFEST).read_text())["files"]
    return {name: digest for name, (_, digest) in files.items() if name != "trainer.json"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "killed_at"), [("ddp", 7), ("zero1", 11), ("zero2", 13), ("zero3", 9)])
def test_killed_and_started_again_it_makes_exactly_the_same_steps(
    runs: Runs, kind: str, precision: str, killed_at: int
) -> None:
    changes = (f"engine.kind={kind}", f"engine.precision={precision}")
    undisturbed, name = f"{kind}-2" if precision == "fp32" else f"whole-{kind}", f"killed-{kind}-{precision}"
    expected = runs.finished(undisturbed, *changes, processes=2)
    process = runs.start(name, *changes, processes=2)
    runs.wait_for_step(name, killed_at)
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
    assert [restart.reason for restart in status.restarts] == ["died without a word"]
    for rank in range(2):
        lines = log_path(runs.folder / name, rank).read_text().splitlines()
        assert [f"rank {rank} of 2, " in line for line in lines if line.startswith("===")] == [True, True]


def send_to_all(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """To every process of a job, as SLURM does: what started the workers, the workers and theirs."""
    for pid in (process.pid, *descendants(process.pid)):
        os.kill(pid, number)


def read_said(run: Path) -> tuple[str, str, int]:
    said = read_state(run) or {}
    return said["state"], said["reason"], said["step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_saves_and_ends_well(runs: Runs, reference: list[dict[str, Any]], number: signal.Signals) -> None:
    """SIGUSR1 comes to every process, and twice."""
    name = f"stopped-{number.name}"
    changes = ("data.mode=stream", "data.workers=1") if number == signal.SIGUSR1 else ()
    process = runs.start(name, "checkpoint.every_steps=1000", *changes, processes=2)
    runs.wait_for_step(name, 6)
    if number == signal.SIGUSR1:
        for _ in range(2):
            send_to_all(process, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
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
    _, errors = process.communicate(timeout=60)
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
    deadline = time.monotonic() + 60
    while not all(log.exists() for log in logs):  # from then on a signal is taken note of
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert read_said(runs.folder / "early") == ("stopped", "SIGTERM", 0)
    assert_same_losses(runs.finished("early", processes=2), reference, 1e-5)


def test_a_rank_that_hangs_ends_the_job_and_the_next_start_goes_on(runs: Runs, reference: list[dict[str, Any]]) -> None:
    process = runs.start("hung", "hang.minutes=0.1", "hang.factor=2", "run.max_steps=20", processes=2)
    runs.wait_for_step("hung", 6)
    heartbeat = json.loads((runs.folder / "hung" / "heartbeats" / "rank-00001.json").read_text())
    os.kill(heartbeat["pid"], signal.SIGSTOP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "rank 0" in errors
    assert "has made no progress" in errors
    assert "has made no progress" in log_path(runs.folder / "hung", 0).read_text()
    assert "trainer/training/loop.py" in (runs.folder / "hung" / "heartbeats" / "rank-00000.stacks").read_text()
    assert not is_alive(heartbeat["pid"])
    assert_same_losses(runs.finished("hung", processes=2), reference, 1e-5)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(runs: Runs, reference: list[dict[str, Any]]) -> None:
    runs.finished("damaged", "run.max_steps=10")
    path = runs.folder / "damaged" / "checkpoints" / "step-00000010"
    state = next((path / "state").iterdir())
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 255
    state.write_bytes(content)
    ended = runs.train("damaged")
    assert ended.returncode == 0
    assert f"{path} is damaged" in ended.stderr
    assert "resumed from step 5" in ended.stderr
    assert_same_losses(runs.steps("damaged"), reference, 0.0)


def test_a_run_whose_every_checkpoint_is_damaged_is_not_started_anew(runs: Runs) -> None:
    runs.finished("ruined", "run.max_steps=5")
    path = runs.folder / "ruined" / "checkpoints" / "step-00000005"
    (path / "lanes.json").write_text("{}")
    for _ in range(2):
        ended = runs.train("ruined")
        assert ended.returncode == 2
        assert f"{path} is damaged (lanes.json has 2 bytes" in ended.stderr.splitlines()[-1]
    assert path.exists()
    assert [record["step"] for record in runs.steps("ruined")] == [1, 2, 3, 4, 5]


def test_a_run_of_two_vocabularies_is_trained_resumed_averaged_and_used(runs: Runs) -> None:
    changes = (
        "tokenizer.joint=false", "tokenizer.path=null", "tokenizer.vocab_size=400", "model.tied_embeddings=decoder",
        "data.valid=[{builtin: phrasebook, split: valid, name: held, limit: 5}]",
    )  # fmt: skip
    whole = runs.finished("separate", *changes, "run.max_steps=10")
    runs.finished("separate-resumed", *changes, "run.max_steps=5")
    resumed = runs.finished("separate-resumed", *changes, "run.max_steps=10")
    assert [(s["step"], s["loss"]) for s in resumed] == [(s["step"], s["loss"]) for s in whole]
    assert [s["step"] for s in whole] == list(range(1, 11))
    names = {"tokenizer.source.model", "tokenizer.target.model"}
    run, averaged = runs.folder / "separate", runs.folder / "separate-averaged"
    commands = (["average", str(run), "--last", "2", "--output", str(averaged)], ["translate", str(averaged)])
    for command in commands:
        ended = subprocess.run(
            [sys.executable, "-m", "launch", *command],
            env=runs.environment, input="un chat\n", capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 1
    for directory in (run, averaged):
        assert {path.name for path in directory.glob("tokenizer*")} == names


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
