"""A run that runs out of memory where a step cannot be made in parts starts again by itself, in smaller parts."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launch.cli import main
from trainer.engine.accelerate_engine import AccelerateEngine
from trainer.reporting.metrics_file import read_metrics

CONFIGURATION: dict[str, Any] = {
    "run": {"max_steps": 8},
    "model": {
        "d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.0
    },
    "tokenizer": {"kind": "bpe", "vocab_size": 400},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 500}],
        "max_length": 64, "max_tokens": 256, "micro_batches_per_step": 2, "num_lanes": 2, "window": 64,
    },
    "optimizer": {"peak_lr": 2.0e-3, "warmup_steps": 4, "eps": 1.0e-6},
    "engine": {"precision": "fp32", "device": "cpu"},
    "checkpoint": {"every_steps": 3},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIGURATION | {"run": {"directory": "set below", "max_steps": 8}}))
    shared = f"data.cache={tmp_path / 'store'}"
    return lambda name: main(["train", str(config), "--processes", "1", shared, f"run.directory={tmp_path / name}"])


def losses(directory: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(directory / "metrics.jsonl") if r["kind"] == "train"]


def test_the_run_goes_on_from_the_newest_checkpoint_and_makes_the_same_steps(
    train: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("undisturbed") == 0
    whole = AccelerateEngine._backward
    sizes: list[int] = []

    def short(engine: AccelerateEngine, loss: torch.Tensor) -> None:
        if engine.num_updates in (3, 4):
            time.sleep(0.2)  # for the checkpoint of step 3 to be written and published
        if engine.num_updates == 5 and not (tmp_path / "short" / "memory.json").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(engine.num_updates)
        whole(engine, loss)

    monkeypatch.setattr(AccelerateEngine, "_backward", short)
    capsys.readouterr()
    assert train("short") == 0
    told = capsys.readouterr().err
    assert "rank 0 ran out of memory (CUDA out of memory. Tried to allocate 2 GiB)" in told
    assert "resumed from step 3" in told
    assert json.loads((tmp_path / "short" / "memory.json").read_text()) == {"max_tokens": 256, "parts": 2}
    assert (sizes.count(4), sizes.count(7)) == (2 + 4, 4), "backward passes of step 5, made twice, and of step 8"
    expected = losses(tmp_path / "undisturbed")
    assert [step for step, _ in losses(tmp_path / "short")] == [step for step, _ in expected] == list(range(1, 9))
    for (_, found), (_, wanted) in zip(losses(tmp_path / "short"), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_too_large_a_budget_fails_before_the_first_step(
    train: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, calls = AccelerateEngine._backward, []

    def short(engine: AccelerateEngine, loss: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) > 4:  # a quarter and a half of the budget, two micro-batches each; a sixteenth holds no sentence
            raise torch.OutOfMemoryError("CUDA out of memory.")
        whole(engine, loss)

    monkeypatch.setattr(AccelerateEngine, "_backward", short)
    assert train("large") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "`data.max_tokens` is 256" in told
    assert "128 fits, so set that and `data.micro_batches_per_step` to 4" in told
    assert losses(tmp_path / "large") == []
    assert not (tmp_path / "large" / "checkpoints").exists()
