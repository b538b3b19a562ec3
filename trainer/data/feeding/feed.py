"""The training data of one rank: its micro-batches in the order of the run, and its position in that order."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.data.config import DataConfig
from trainer.data.feeding.budget import choose_budget
from trainer.data.feeding.consumed_counts import COUNTED, count
from trainer.data.feeding.feed_state import FORMAT, check_same_data, current_format
from trainer.data.feeding.lane_reader import LaneReader, PairSource
from trainer.data.feeding.largest_micro_batch import largest_micro_batch
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.feeding.prefetch import Prefetcher
from trainer.data.feeding.stored_pairs import StoredPairs
from trainer.data.feeding.streamed_pairs import StreamedPairs
from trainer.data.order.lanes import LaneState, Order
from trainer.data.order.partition import Partition, check_world_size
from trainer.data.order.seeds import dropout_seed
from trainer.data.stores.store import Store
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import IntArray
from trainer.data.text.tokenizer import SpecialIds


class _Dealt(NamedTuple):
    """A micro-batch, the state of its lane after it, and what it adds to the counts of its lane."""

    micro_batch: MicroBatch
    lane_state: LaneState
    counts_4C: IntArray


class TrainingData:
    """The micro-batches of a rank, step by step, without end.

    Micro-batch i of the run is the next of lane i mod `num_lanes`; the rank takes those with i ≡ rank mod world size.
    A thread works `data.prefetch` micro-batches ahead; `state` counts only those that `next_step` has returned.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        config: DataConfig,
        ids: SpecialIds,
        *,
        seed: int,
        partition: Partition,
        static: bool = False,
        encoder: PairEncoder | None = None,
    ) -> None:
        """Takes token stores, or text stores with the `encoder` that `data.workers` processes use (0: this process).

        `static` fills every batch up to one shape. Raises UserError if the lanes cannot be divided among the ranks, or
        if no sentence of a corpus is short enough.
        """
        check_world_size(config, partition.world_size)
        self._config, self._ids, self._seed, self._partition, self._static = config, ids, seed, partition, static
        self._manifests = [store.manifest for store in stores]
        sizes, weights = tuple(m.num_pairs for m in self._manifests), tuple(c.weight for c in config.train)
        self._order = Order(seed, sizes, weights, config.temperature, config.window, config.num_lanes)
        self._pairs: PairSource = (
            StreamedPairs(stores, encoder, self._order, config.workers) if encoder else StoredPairs(stores)
        )
        self.budget = choose_budget(config, self._pairs.mean_lengths(), self._order.shares.tolist())
        self._micro_batches = 0
        lanes = range(partition.rank, config.num_lanes, partition.world_size)
        self._lanes = {lane: self._order.start() for lane in lanes}
        self._counts = {lane: np.zeros((len(COUNTED), len(stores)), np.int64) for lane in self._lanes}
        self._ahead: Prefetcher[_Dealt] | None = None

    def next_step(self) -> list[MicroBatch]:
        """This rank's micro-batches of the next optimizer step, in order of index; equally many on every rank."""
        if self._ahead is None:
            self._ahead = Prefetcher(self._micro_batches_from_here(), self._config.prefetch)
        step = [next(self._ahead) for _ in range(self._config.micro_batches_per_step // self._partition.world_size)]
        for dealt in step:
            self._lanes[dealt.micro_batch.lane] = dealt.lane_state
            self._counts[dealt.micro_batch.lane] += dealt.counts_4C
        self._micro_batches += self._config.micro_batches_per_step
        return [dealt.micro_batch for dealt in step]

    def largest(self, share: float) -> MicroBatch | None:
        """The largest possible micro-batch with this share of the budget; None if the longest pair would not fit."""
        budget = self.budget.scaled(share)
        return largest_micro_batch(budget, self._ids, self._static) if budget else None

    def state(self) -> dict[str, Any]:
        """Where this rank's lanes are, JSON-able; `feed_state.merge_states` joins the states of all ranks."""
        return {
            "format": FORMAT,
            "micro_batches": self._micro_batches,
            "order": self._order_identity(),
            "corpora": self._corpus_identities(),
            "lanes": {str(lane): self._lane_document(lane) for lane in self._lanes},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues at a merged state, of this or an older format. Raises UserError if the data differ."""
        self._stop_working_ahead()
        state = current_format(state)
        check_same_data(self.state(), state)
        self._micro_batches = state["micro_batches"]
        for lane in self._lanes:
            saved = state["lanes"][str(lane)]
            self._lanes[lane] = LaneState(saved["window"], saved["consumed"], tuple(saved["positions"]))
            self._counts[lane] = np.array([saved["counts"][name] for name in COUNTED])

    def close(self) -> None:
        """Ends the thread and the worker processes."""
        self._pairs.close()
        self._stop_working_ahead()

    def _stop_working_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _lane_document(self, lane: int) -> dict[str, Any]:
        counts = dict(zip(COUNTED, self._counts[lane].tolist(), strict=True))
        state = self._lanes[lane]
        return asdict(state) | {"positions": list(state.positions), "counts": counts}

    def _order_identity(self) -> dict[str, Any]:
        """What decides, together with the corpora, the order of the pairs (not how they are packed)."""
        return {
            "seed": self._seed,
            "mode": self._config.mode,
            "num_lanes": self._config.num_lanes,
            "window": self._config.window,
            "temperature": self._config.temperature,
            "num_corpora": len(self._manifests),
        }

    def _corpus_identities(self) -> list[dict[str, Any]]:
        return [
            {
                "name": manifest.name,
                "weight": weight,
                "content": manifest.content,
                "num_pairs": manifest.num_pairs,
                "rejected": manifest.rejected,
            }
            for manifest, weight in zip(self._manifests, self._order.weights, strict=True)
        ]

    def _micro_batches_from_here(self) -> Iterator[_Dealt]:
        rank, world_size = self._partition
        index = self._micro_batches + (rank - self._micro_batches) % world_size
        readers = self._readers(index)
        ahead = self._pairs.chunks_ahead(len(readers), self.budget.max_sentences)
        for reader in readers.values():
            reader.look_ahead(ahead)
        while True:
            lane = index % self._config.num_lanes
            yield self._deal(index, lane, readers[lane])
            readers[lane].look_ahead(ahead)
            index += world_size

    def _readers(self, index: int) -> dict[int, LaneReader]:
        """The readers by lane, in the order in which they are used from micro-batch `index` on."""
        num_lanes = self._config.num_lanes
        lanes = [i % num_lanes for i in range(index, index + num_lanes, self._partition.world_size)]
        return {lane: LaneReader(self._order, lane, self._lanes[lane], self._pairs) for lane in lanes}

    def _deal(self, index: int, lane: int, reader: LaneReader) -> _Dealt:
        pairs = reader.read(self.budget)
        batch = pack(pairs.source, pairs.target, self._ids, self.budget if self._static else None)
        if self._static and torch.cuda.is_available():
            batch = batch.pinned()
        seed = dropout_seed(self._seed, index)
        micro_batch = MicroBatch(batch, index, lane, seed, (pairs.corpus_N, pairs.row_N))
        return _Dealt(micro_batch, reader.state, count(pairs, len(self._manifests)))
