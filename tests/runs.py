"""Whole training runs of one small configuration, for tests of what a run does.

A run through the command line costs seconds of imports for each of its processes. So a test that is about the training
itself, and not about how its processes start and end, has it made by processes that are kept (`finished`); what is
about starts, signals and kills uses the command line (`train`, `start`).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import cli
from launch.watching.status import RunReader
from tests.limits import patience, wait_until
from tests.ranks import run_on_ranks
from trainer.reporting.metrics_file import read_metrics
from trainer.run_directory.layout import MANIFEST, list_checkpoints

STEPS = 12
CONFIGURATION: dict[str, Any] = {
    "run": {"directory": "set below", "max_steps": STEPS},
    "model": {
        "d_model": 32, "d_ff": 64, "num_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.1
    },
    "tokenizer": {"kind": "bpe", "vocab_size": 500},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 3000}],
        "max_length": 64, "max_tokens": 128, "micro_batches_per_step": 4, "num_lanes": 4, "window": 256,
    },
    "optimizer": {"peak_lr": 2.0e-3, "warmup_steps": 6, "eps": 1.0e-6, "clip": 0.5},
    "engine": {"kind": "ddp", "precision": "fp32", "activation_checkpointing": "full"},
    "checkpoint": {"every_steps": 3, "keep_last": 10},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip
Record = dict[str, Any]


class Runs:
    """Makes runs of one small configuration in a folder; all share one tokenizer and one token store."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any] | None = None):
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(dict(configuration or CONFIGURATION)))
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        shared = (f"data.cache={folder / 'store'}", f"run.directory={folder / 'prepared'}", "tokenizer.path=null")
        assert cli.main(["prepare", str(self.config), "--workers", "1", *shared]) == 0
        for tokenizer in (folder / "prepared").glob("tokenizer*.model"):
            shutil.copy(tokenizer, folder)

    def changes(self, name: str, *changes: str) -> list[str]:
        """The settings that make a run of this folder the run `name`."""
        shared = [f"data.cache={self.folder / 'store'}", f"run.directory={self.folder / name}"]
        if (self.folder / "tokenizer.model").exists():
            shared.append(f"tokenizer.path={self.folder / 'tokenizer.model'}")
        return [*shared, *changes]

    def command(self, name: str, *changes: str, processes: int = 1) -> list[str]:
        train = [sys.executable, "-m", "launch", "train", str(self.config), "--processes", str(processes)]
        return [*train, *self.changes(name, *changes)]

    def train(self, name: str, *changes: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        """Runs `dragoman train` to its end."""
        command, limit = self.command(name, *changes, processes=processes), patience(240)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=limit, check=False)

    def start(self, name: str, *changes: str, processes: int = 1) -> "subprocess.Popen[str]":
        """Starts `dragoman train` in a session of its own, so that `killpg` ends all of it."""
        command = self.command(name, *changes, processes=processes)
        return subprocess.Popen(
            command, env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finished(self, name: str, *changes: str, processes: int = 1) -> list[Record]:
        """The `train` records of a run that processes which are kept make, or resume, to its end."""
        run_on_ranks(train_here, processes, str(self.config), self.changes(name, *changes))
        return self.steps(name)

    def steps(self, name: str) -> list[Record]:
        return self.records(name, "train")

    def records(self, name: str, kind: str) -> list[Record]:
        return [r for r in read_metrics(self.folder / name / "metrics.jsonl") if r["kind"] == kind]

    def wait_for_step(self, name: str, step: int) -> None:
        path = self.folder / name / "metrics.jsonl"
        wait_until(
            lambda: path.exists() and any(r["step"] >= step for r in self.steps(name)), f"no step {step} of {name}", 120
        )


def train_here(config: str, changes: Sequence[str]) -> None:
    """One rank's part of a run, in this process."""
    from trainer import run
    from trainer.configuration import reading

    run.train(reading.load(config, list(changes)))


def assert_same_losses(
    steps: Sequence[Record],
    expected: Sequence[Record],
    relative: float,
    keys: Sequence[str] = ("loss", "nll", "grad_norm"),
) -> None:
    """The same steps, made of as many target tokens, with the same `keys` up to the relative difference."""
    assert [s["step"] for s in steps] == [s["step"] for s in expected] == list(range(1, len(expected) + 1))
    for found, wanted in zip(steps, expected, strict=True):
        assert found["num_target_tokens"] == wanted["num_target_tokens"]
        for key in keys:
            assert found[key] == pytest.approx(wanted[key], rel=relative, abs=0), (found["step"], key)


def last_state(run: Path) -> dict[str, Any]:
    """What the last checkpoint holds, byte for byte: the digests of the state's files, and of the lanes' positions."""
    newest = list_checkpoints(run)[-1]
    files = json.loads((newest / MANIFEST).read_text())["files"]
    return {name: digest for name, (_, digest) in files.items() if name != "trainer.json"}


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]


def send_to_all(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """To every process of a job, as SLURM does: what started the workers, the workers and theirs."""
    for pid in (process.pid, *descendants(process.pid)):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether a process is more than an entry whose parent has not collected it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_state(run: Path, state: str) -> None:
    """The workers end a moment after the process that started them."""
    wait_until(lambda: RunReader(run).read({}).state == state, f"{run} never came to the state {state}")
