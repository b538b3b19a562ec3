"""All ranks of a run in one process, and what they read in a form that can be compared."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainer.data.config import DataConfig
from trainer.data.feeding.feed import TrainingData
from trainer.data.feeding.feed_state import merge_states
from trainer.data.feeding.packing import MicroBatch
from trainer.data.order.partition import Partition
from trainer.data.stores.store import Store
from trainer.data.text.tokenizer import SpecialIds

IDS = SpecialIds(source_pad_id=0, target_pad_id=0, bos_id=2)


class World:
    """All ranks of a run, driven one after the other."""

    def __init__(self, stores: Sequence[Store], world_size: int, config: DataConfig, **settings: Any) -> None:
        settings = {"seed": 1} | settings
        self.ranks = [
            TrainingData(stores, config, IDS, partition=Partition(rank, world_size), **settings)
            for rank in range(world_size)
        ]

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            rank.close()

    def steps(self, count: int) -> list[MicroBatch]:
        """The micro-batches of some steps in order of index; each rank must give as many, in order."""
        micro_batches = []
        for _ in range(count):
            parts = [rank.next_step() for rank in self.ranks]
            assert len({len(part) for part in parts}) == 1
            for part in parts:
                assert [m.index for m in part] == sorted(m.index for m in part)
                micro_batches += part
        return sorted(micro_batches, key=lambda m: m.index)

    def state(self) -> Any:
        return json.loads(json.dumps(merge_states(rank.state() for rank in self.ranks)))

    def restored(self, state: Any) -> "World":
        for rank in self.ranks:
            rank.load_state(state)
        return self


def summary(micro_batches: Iterable[MicroBatch]) -> list[Any]:
    return [
        (m.index, m.lane, m.seed, *(x.tolist() for x in (*m.pair_ids, m.batch.source_S, m.batch.target_out_T)))
        for m in micro_batches
    ]


def pairs(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[int, int, int]]:
    for m in micro_batches:
        yield from ((m.lane, corpus, row) for corpus, row in zip(*(x.tolist() for x in m.pair_ids), strict=True))
