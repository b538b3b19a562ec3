"""Too large a budget fails before the first step, and a run that ran out of memory continues in smaller parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.configuration.sections import Config, RunConfig
from trainer.data.config import DataConfig
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.errors import OutOfMemory, UserError
from trainer.training.micro_batch_parts import MAX_PARTS, in_parts, num_parts, remember_parts
from trainer.training.rehearsal import rehearse

MAX_TOKENS, LENGTH = 256, 8


class Memory:
    """An engine with room for a number of target tokens at a time."""

    rank, world_size = 1, 2

    def __init__(self, room: float) -> None:
        self.room, self.sizes = room, list[list[int]]()

    def rehearse(self, micro_batches: Sequence[MicroBatch], loss_fn: Any) -> None:
        self.sizes.append([m.num_target_tokens for m in micro_batches])
        if max(self.sizes[-1]) > self.room:
            raise OutOfMemory("4 GiB asked for")


def largest(share: float) -> MicroBatch:
    length_N = np.full(round(share * MAX_TOKENS / LENGTH), LENGTH)
    side = Side(np.full(length_N.sum(), 5), length_N)
    return MicroBatch(pack(side, side, SpecialIds(0, 0, 2)), 0, 0, 1, (np.zeros_like(length_N), length_N))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = DataConfig(max_tokens=MAX_TOKENS, max_length=LENGTH, micro_batches_per_step=4)
    return Config(run=RunConfig(directory=str(tmp_path)), data=data)


def run(config: Config, room: float, parts: int = 1) -> list[list[int]]:
    engine: Any = Memory(room)
    rehearse(engine, largest, loss_fn=None, config=config, parts=parts)  # type: ignore[arg-type]
    return list(engine.sizes)


def test_a_budget_that_fits_is_tried_up_to_the_whole(config: Config) -> None:
    assert run(config, room=MAX_TOKENS) == [[16, 16], [64, 64], [128, 128], [256, 256]]


def test_parts_take_less(config: Config) -> None:
    assert run(config, room=64, parts=4) == [[16] * 8, [32] * 8, [64] * 8], "a sixteenth has too few pairs"


@pytest.mark.parametrize(
    ("room", "remedy"),
    [
        (200, "128 fits, so set that and `data.micro_batches_per_step` to 8,"),
        (64, "64 fits, so set that and `data.micro_batches_per_step` to 16,"),
        (63, "of 64 target tokens do not fit"),
        (63, "16 fits"),
        (15, "of 16 target tokens do not fit into the memory of rank 1: choose a smaller model"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused_with_one_that_does(config: Config, room: float, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        run(config, room)
    for words in ("`data.max_tokens` is 256", "rank 1", remedy, "4 GiB asked for"):
        assert words in str(caught.value)


def test_what_ran_out_of_memory_is_remembered_for_its_budget(config: Config) -> None:
    assert num_parts(config) == 1
    remember_parts(config, 2)
    remember_parts(config, 2 * num_parts(config))
    assert num_parts(config) == 4
    smaller = Config(run=config.run, data=DataConfig(max_tokens=128, max_length=LENGTH))
    assert num_parts(smaller) == 1
    (Path(config.run.directory) / "memory.json").write_text("{")
    assert num_parts(config) == 1
    with pytest.raises(UserError, match="find out what else takes memory"):
        remember_parts(config, 2 * MAX_PARTS)


def test_too_few_sentences_for_the_parts_are_told() -> None:
    with pytest.raises(UserError, match="cannot be cut into 64 parts"):
        in_parts([largest(1)], 64)
