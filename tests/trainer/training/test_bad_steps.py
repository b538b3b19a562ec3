"""Whole runs of two processes that meet steps they must not learn from, each on one rank alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.limits import patience
from trainer.checkpoints.directory import read_document, verify
from trainer.reporting.metrics_file import read_metrics
from trainer.run_directory.layout import checkpoint_step, list_checkpoints

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parent / "poisoned_worker.py"
PER_STEP = 4

CONFIGURATION: dict[str, Any] = {
    "run": {"directory": "set below", "max_steps": 40},
    "model": {"d_model": 32, "d_ff": 64, "num_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "tokenizer": {"kind": "bpe", "vocab_size": 500},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 3000}],
        "max_length": 64, "max_tokens": 64, "micro_batches_per_step": PER_STEP, "num_lanes": PER_STEP, "window": 256,
    },
    "optimizer": {"peak_lr": 1.0e-3, "warmup_steps": 10},
    "bad_steps": {"spike_threshold": 20, "max_in_a_row": 3, "max_rollbacks": 1, "lr_factor": 0.5},
    "checkpoint": {"every_steps": 10, "keep_last": 10},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


def train(folder: Path, kind: str, poison: dict[int, float | str]) -> subprocess.CompletedProcess[str]:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIGURATION))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(WORKER)]
    command += [str(config), f"run.directory={folder / 'run'}", f"engine.kind={kind}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment["POISON"] = json.dumps(poison)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience(240), check=False)


def events(run: Path, kind: str) -> list[tuple[int, str]]:
    found = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "event" and r["event"] == kind]
    return [(r["step"], r["detail"]) for r in found]


def of_step(step: int, place: int) -> int:
    """The index of one of a step's micro-batches; even places are rank 0's, odd ones rank 1's."""
    return (step - 1) * PER_STEP + place


@pytest.mark.parametrize("kind", ["ddp", "zero3"])
def test_nan_and_spike_are_skipped_and_a_bad_stretch_is_passed_over(kind: str, tmp_path: Path) -> None:
    poison: dict[int, float | str] = {of_step(5, 1): "nan", of_step(25, 2): 1000.0}
    poison |= {of_step(step, 3): "inf" for step in (33, 34, 35)}
    ended = train(tmp_path, kind, poison)
    run = tmp_path / "run"
    assert ended.returncode == 0, ended.stderr
    (nan_step, nan_told), (spike_step, spike_told), *stretch = events(run, "skipped")
    assert (nan_step, spike_step, [step for step, _ in stretch]) == (5, 25, [33, 34, 35])
    assert nan_told.startswith("gradients not finite; micro-batches 16 (lane 0), 17 (lane 1), 18")
    assert spike_told.startswith("loss ")
    assert " above " in spike_told
    assert events(run, "rolled back") == [(30, "from step 35; its data is passed over, learning rate times 0.5")]
    steps = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]
    assert [r["step"] for r in steps] == list(range(1, 41))
    losses = {r["step"]: r["loss"] for r in steps if not r["skipped"]}
    assert set(range(1, 41)) - set(losses) == {5, 25}, "those after the rollback were made of other data"
    assert losses[40] < 0.9 * losses[1]
    newest = list_checkpoints(run)[-1]
    assert (checkpoint_step(newest), verify(newest)) == (40, [])
    # 38 of the 40 steps were learnt from.
    assert read_document(newest, "trainer.json")["num_updates"] == 38


def test_a_run_that_diverges_for_good_ends_with_a_verdict(tmp_path: Path) -> None:
    ended = train(tmp_path, "zero2", {of_step(step, 1): "nan" for step in range(12, 40)})
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if line.startswith("dragoman: training has diverged")]
    assert told, ended.stderr
    assert "3 steps in a row up to step 13 could not be learnt from, after 1 rollback;" in told[0]
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert (checkpoint_step(newest), verify(newest)) == (10, [])
