"""Whole runs of two processes that meet steps they must not learn from, each on one rank alone."""

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from torch import nn

from tests.ranks import run_on_ranks
from tests.runs import Runs, train_here
from trainer.checkpoints.directory import read_document, verify
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import LossFunction, LossSums
from trainer.errors import UserError
from trainer.run_directory.layout import TRAINER_DOCUMENT, checkpoint_step, list_checkpoints
from trainer.training import loop

pytestmark = pytest.mark.slow

PER_STEP = 4

CONFIGURATION: dict[str, Any] = {
    "run": {"directory": "set below", "max_steps": 32},
    "model": {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1},
    "tokenizer": {"kind": "bpe", "vocab_size": 400},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 1000}],
        "max_length": 64, "max_tokens": 64, "micro_batches_per_step": PER_STEP, "num_lanes": PER_STEP, "window": 256,
    },
    "optimizer": {"peak_lr": 2.0e-3, "warmup_steps": 10},
    "engine": {"precision": "fp32", "device": "cpu"},
    "bad_steps": {"spike_threshold": 20, "max_in_a_row": 3, "max_rollbacks": 1, "lr_factor": 0.5},
    "checkpoint": {"every_steps": 8, "keep_last": 10},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), CONFIGURATION)


def train_poisoned(config: str, changes: Sequence[str], factors: Mapping[int, float]) -> str | None:
    """One rank of a run whose losses are multiplied for some micro-batches. Returns the UserError that ended it."""
    sound = loop.training_loss

    def poisoned(*arguments: Any) -> LossFunction:
        loss = sound(*arguments)

        def spoilt(model: nn.Module, micro_batch: MicroBatch) -> LossSums:
            sums = loss(model, micro_batch)
            return LossSums(sums.loss * factors.get(micro_batch.index, 1.0), sums.nll)

        return spoilt

    with patch.object(loop, "training_loss", poisoned):
        try:
            train_here(config, changes)
        except UserError as error:
            return str(error)
    return None


def train(runs: Runs, kind: str, factors: dict[int, float]) -> list[str | None]:
    return run_on_ranks(train_poisoned, 2, str(runs.config), runs.changes(kind, f"engine.kind={kind}"), factors)


def events(runs: Runs, name: str, event: str) -> list[tuple[int, str]]:
    return [(r["step"], r["detail"]) for r in runs.records(name, "event") if r["event"] == event]


def of_step(step: int, place: int) -> int:
    """The index of one of a step's micro-batches; even places are rank 0's, odd ones rank 1's."""
    return (step - 1) * PER_STEP + place


@pytest.mark.parametrize("kind", ["ddp", "zero3"])
def test_nan_and_spike_are_skipped_and_a_bad_stretch_is_passed_over(runs: Runs, kind: str) -> None:
    factors = {of_step(5, 1): float("nan"), of_step(23, 2): 1000.0}
    factors |= {of_step(step, 3): float("inf") for step in (27, 28, 29)}
    assert train(runs, kind, factors) == [None, None]
    (nan_step, nan), (spike_step, spike), *stretch = events(runs, kind, "skipped")
    assert (nan_step, spike_step, [step for step, _ in stretch]) == (5, 23, [27, 28, 29])
    assert nan.startswith("gradients not finite; micro-batches 16 (lane 0), 17 (lane 1), 18")
    assert spike.startswith("loss ")
    assert " above " in spike
    assert events(runs, kind, "rolled back") == [(24, "from step 29; its data is passed over, learning rate times 0.5")]
    steps = runs.steps(kind)
    assert [r["step"] for r in steps] == list(range(1, 33))
    losses = {r["step"]: r["loss"] for r in steps if not r["skipped"]}
    assert set(range(1, 33)) - set(losses) == {5, 23}, "those after the rollback were made of other data"
    assert losses[32] < 0.97 * losses[1]
    newest = list_checkpoints(runs.folder / kind)[-1]
    assert (checkpoint_step(newest), verify(newest)) == (32, [])
    # 30 of the 32 steps were learnt from.
    assert read_document(newest, TRAINER_DOCUMENT)["num_updates"] == 30


def test_a_run_that_diverges_for_good_ends_with_a_sentence(runs: Runs) -> None:
    found = train(runs, "zero2", {of_step(step, 1): float("nan") for step in range(12, 40)})
    for sentence in found:
        assert sentence is not None
        assert sentence.startswith("training has diverged: 3 steps in a row up to step 11 could not be learnt from")
        assert "after 1 rollback;" in sentence
    newest = list_checkpoints(runs.folder / "zero2")[-1]
    assert (checkpoint_step(newest), verify(newest)) == (8, [])
