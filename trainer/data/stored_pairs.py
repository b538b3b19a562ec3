"""Pairs out of token stores: `data.mode: store`.

Shape suffixes: N pairs asked for, C corpora.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer.data.encoding import EncodedPairs
from trainer.data.lane_reader import Pending
from trainer.data.lanes import Draws
from trainer.data.sentences import IntArray, Side, token_index
from trainer.data.store import Store, Table


class StoredPairs:
    """A pair source (`lane_reader.PairSource`) over the token stores of the corpora."""

    # Enough that the work for each corpus in a chunk is lost in that for the tokens.
    chunk_pairs = 2048

    def __init__(self, stores: Sequence[Store]) -> None:
        self._manifests = [store.manifest for store in stores]
        self._sources, self._targets = [store.source for store in stores], [store.target for store in stores]

    def request(self, draws: Draws) -> Pending:
        """Reads nothing until it is called."""
        return partial(self._read, draws)

    def chunks_ahead(self, num_lanes: int, num_pairs: int) -> int:
        """None: nobody would work on them."""
        return 0

    def mean_lengths(self) -> NDArray[np.float64]:
        counts = [(m.num_source_items, m.num_target_items) for m in self._manifests]
        means: NDArray[np.float64] = np.array(counts) / np.array([[m.num_pairs] for m in self._manifests])
        return means

    def close(self) -> None:
        """Nothing is kept."""

    def _read(self, draws: Draws) -> EncodedPairs:
        source = _gather(self._sources, draws.corpus_N, draws.row_N)
        target = _gather(self._targets, draws.corpus_N, draws.row_N)
        return EncodedPairs(source, target, np.ones(len(draws), dtype=bool))


def _gather(tables: Sequence[Table], corpus_N: IntArray, row_N: IntArray) -> Side:
    if len(tables) == 1:
        return tables[0].gather(row_N)
    # Sixteen bits, because numpy then sorts by counting, in a tenth of the time.
    by_corpus_N = np.argsort(corpus_N.astype(np.uint16), kind="stable")
    groups = np.split(row_N[by_corpus_N], np.cumsum(np.bincount(corpus_N, minlength=len(tables)))[:-1])
    parts = [table.gather(rows) for table, rows in zip(tables, groups, strict=True) if len(rows)]
    grouped_length_N = np.concatenate([part.length_N for part in parts])
    length_N, start_N = np.empty_like(row_N), np.empty_like(row_N)
    length_N[by_corpus_N] = grouped_length_N
    start_N[by_corpus_N] = np.cumsum(grouped_length_N) - grouped_length_N
    return Side(np.concatenate([part.token_L for part in parts]).take(token_index(start_N, length_N)), length_N)
