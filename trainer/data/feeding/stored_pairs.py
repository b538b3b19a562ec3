"""Pairs from token stores: `data.mode: store`.

Shape suffixes: N pairs asked for, C corpora.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer.data.feeding.lane_reader import Pending
from trainer.data.order.shuffling import Draws
from trainer.data.stores.store import Store, Table, read_ahead
from trainer.data.text.encoding import EncodedPairs
from trainer.data.text.sentences import IntArray, Side, token_index


class StoredPairs:
    """A pair source (`lane_reader.PairSource`) over the token stores of the corpora."""

    # Enough that the work per corpus of a chunk is small against the work per token.
    chunk_pairs = 4096

    def __init__(self, stores: Sequence[Store]) -> None:
        read_ahead(stores)
        self._manifests = [store.manifest for store in stores]
        self._sources, self._targets = [store.source for store in stores], [store.target for store in stores]

    def request(self, draws: Draws) -> Pending:
        """What is returned reads the pairs when it is called."""
        return partial(self._read, draws)

    def chunks_ahead(self, num_lanes: int, num_pairs: int) -> int:
        """0, since nobody would work on chunks requested ahead."""
        return 0

    def mean_lengths(self) -> NDArray[np.float64]:
        counts = [(m.num_source_items, m.num_target_items) for m in self._manifests]
        means: NDArray[np.float64] = np.array(counts) / np.array([[m.num_pairs] for m in self._manifests])
        return means

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _read(self, draws: Draws) -> EncodedPairs:
        # As 16-bit integers, which numpy sorts by counting, in a tenth of the time.
        by_corpus_N = np.argsort(draws.corpus_N.astype(np.uint16), kind="stable")
        ends = np.cumsum(np.bincount(draws.corpus_N, minlength=len(self._manifests)))
        rows = np.split(draws.row_N[by_corpus_N], ends[:-1])
        source, target = (_in_order(_gather(tables, rows), by_corpus_N) for tables in (self._sources, self._targets))
        return EncodedPairs(source, target, np.ones(len(draws), dtype=bool))


def _gather(tables: Sequence[Table], rows: Sequence[IntArray]) -> Side:
    """The rows of the first corpus, then those of the second, and so on; loops over corpora only where it must."""
    start_N = np.concatenate([table.offsets.take(row_N) for table, row_N in zip(tables, rows, strict=True)])
    end_N = np.concatenate([table.offsets.take(row_N + 1) for table, row_N in zip(tables, rows, strict=True)])
    length_N = end_N - start_N
    before_N = np.concatenate([np.zeros(1, np.int64), np.cumsum(length_N)])
    corpus_ends = before_N[np.cumsum([len(row_N) for row_N in rows])[:-1]]
    parts = np.split(token_index(start_N, length_N), corpus_ends)
    return Side(
        np.concatenate([table.items.take(part_L) for table, part_L in zip(tables, parts, strict=True)]), length_N
    )


def _in_order(grouped: Side, place_N: IntArray) -> Side:
    """The sentences in another order: sentence n of `grouped` moves to place_N[n]."""
    length_N, start_N = np.empty_like(place_N), np.empty_like(place_N)
    length_N[place_N] = grouped.length_N
    start_N[place_N] = np.cumsum(grouped.length_N) - grouped.length_N
    return Side(grouped.token_L.take(token_index(start_N, length_N)), length_N)
