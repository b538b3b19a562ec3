"""The training data of one rank: micro-batches in the run's order, and where that order stands."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.data.config import DataConfig
from trainer.data.lanes import LaneState, Order, stable_hash
from trainer.data.packing import Budget, MicroBatch, SpecialIds, pack
from trainer.data.prefetch import Prefetcher
from trainer.data.store import Store
from trainer.data.windows import LaneReader
from trainer.errors import UserError

_Step = tuple[MicroBatch, LaneState]


class Share(NamedTuple):
    """Which part of the run this process reads."""

    rank: int
    world_size: int


def check_world_size(config: DataConfig, world_size: int) -> None:
    """Raises UserError where lanes or micro-batches cannot be dealt evenly to that many processes."""
    lanes, micro_batches = config.num_lanes, config.micro_batches_per_step
    if lanes % world_size or micro_batches % world_size:
        fitting = [str(w) for w in range(1, min(lanes, micro_batches) + 1) if lanes % w == 0 and micro_batches % w == 0]
        raise UserError(
            f"{world_size} processes cannot share `data.num_lanes` ({lanes}) and `data.micro_batches_per_step` "
            f"({micro_batches}) evenly: both must be multiples of it, so start {_any_of(fitting)} or change them."
        )


def _any_of(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def choose_budget(config: DataConfig, stores: Sequence[Store], shares: Iterable[float]) -> Budget:
    """The budgets of a run from its configuration and the mean lengths of its data.

    Without `data.max_source_tokens` the source budget stands to `data.max_tokens` as the lengths of the two sides to
    each other, so that both fill together. The bound on sentences, 1.5 times what the mean length makes likely, is
    there for the static shape; micro-batches of random pairs do not reach it.
    """
    lengths = np.array([(s.manifest.num_source_tokens, s.manifest.num_target_tokens) for s in stores], dtype=float)
    lengths /= np.array([[s.manifest.num_pairs] for s in stores])
    source, target = np.array(list(shares)) @ lengths
    max_source = config.max_source_tokens or max(config.max_length, 8 * round(config.max_tokens * source / target / 8))
    max_sentences = 8 * int(np.ceil((1.5 * config.max_tokens / target + 8) / 8))
    return Budget(max_source, config.max_tokens, max_sentences, config.max_length)


class TrainingData:
    """Deals a rank its micro-batches, step by step, for ever.

    Micro-batch i of the run is the next of lane i mod `num_lanes`; the rank takes those with i ≡ rank mod world size.
    A thread works `data.prefetch` micro-batches ahead; `state` knows only of those that `next_step` has given out.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        config: DataConfig,
        ids: SpecialIds,
        *,
        seed: int,
        share: Share,
        static: bool = False,
    ) -> None:
        """`static` fills every batch up to one shape. Raises UserError for a world size that does not divide."""
        check_world_size(config, share.world_size)
        self._config, self._ids, self._seed, self._share, self._static = config, ids, seed, share, static
        self._stores = stores
        sizes = tuple(store.manifest.num_pairs for store in stores)
        self._order = Order(seed, sizes, tuple(c.weight for c in config.train), config.window, config.num_lanes)
        self.budget = choose_budget(config, stores, self._order.shares.tolist())
        self._micro_batches = 0
        self._lanes = {lane: self._order.start() for lane in range(share.rank, config.num_lanes, share.world_size)}
        self._ahead: Prefetcher[_Step] | None = None

    def next_step(self) -> list[MicroBatch]:
        """This rank's micro-batches of the next optimizer step, in order of index; as many on every rank."""
        if self._ahead is None:
            self._ahead = Prefetcher(self._micro_batches_from_here(), self._config.prefetch)
        step = [next(self._ahead) for _ in range(self._config.micro_batches_per_step // self._share.world_size)]
        for micro_batch, lane_state in step:
            self._lanes[micro_batch.lane] = lane_state
        self._micro_batches += self._config.micro_batches_per_step
        return [micro_batch for micro_batch, _ in step]

    def state(self) -> dict[str, Any]:
        """Where this rank's lanes stand, JSON-able; `merge_states` makes one of all ranks', for any world size."""
        lanes = {str(lane): asdict(state) | {"positions": list(state.positions)} for lane, state in self._lanes.items()}
        return {"micro_batches": self._micro_batches, "order": self._order_identity(), "lanes": lanes}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues at a merged state. Raises UserError where it belongs to another order of the data."""
        self.close()
        for key, value in self._order_identity().items():
            if state["order"].get(key) != value:
                raise UserError(
                    f"{key} is {value}, but the checkpoint was made with {state['order'].get(key)}: the order of the "
                    "data depends on it, so set it back or start a new run directory."
                )
        self._micro_batches = state["micro_batches"]
        for lane in self._lanes:
            saved = state["lanes"][str(lane)]
            self._lanes[lane] = LaneState(saved["window"], saved["consumed"], tuple(saved["positions"]))

    def close(self) -> None:
        """Ends the thread; `next_step` may be called again and goes on after what was given out."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _order_identity(self) -> dict[str, Any]:
        """All that decides which pair comes when (but not how many are packed together), by the user's names."""
        return {
            "`run.seed`": self._seed,
            "`data.num_lanes`": self._config.num_lanes,
            "`data.window`": self._config.window,
            "`weight` of `data.train`": list(self._order.weights),
            "the content of `data.train`": [store.manifest.content[:16] for store in self._stores],
        }

    def _micro_batches_from_here(self) -> Iterator[_Step]:
        rank, world_size = self._share
        readers = {lane: LaneReader(self._order, self._stores, lane, state) for lane, state in self._lanes.items()}
        index = self._micro_batches + (rank - self._micro_batches) % world_size
        while True:
            lane = index % self._config.num_lanes
            yield self._micro_batch(index, lane, readers[lane]), readers[lane].state
            index += world_size

    def _micro_batch(self, index: int, lane: int, reader: LaneReader) -> MicroBatch:
        pairs = reader.read(self.budget)
        batch = pack(pairs.source, pairs.target, self._ids, self.budget if self._static else None)
        if self._static and torch.cuda.is_available():
            batch = batch.pinned()
        # Libraries take seeds as signed 64-bit numbers.
        seed = stable_hash(self._seed, 2, index) >> 1
        return MicroBatch(batch, index, lane, seed, (pairs.corpus_N, pairs.row_N))


def merge_states(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One state from those of all ranks, taken after the same step."""
    states = list(states)
    assert len({state["micro_batches"] for state in states}) == 1, "states of different steps"
    return states[0] | {"lanes": {lane: saved for state in states for lane, saved in state["lanes"].items()}}
