"""A lane's pairs with their tokens: read a window at a time, given out a budget at a time.

Shape suffixes: N pairs, L their tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.data.lanes import LaneState, Order
from trainer.data.packing import Budget
from trainer.data.sentences import IntArray, Side, token_index
from trainer.data.store import Store, TokenTable


@dataclass(frozen=True)
class Pairs:
    """N pairs in reading order; corpus_N and row_N tell which."""

    corpus_N: IntArray
    row_N: IntArray
    source: Side
    target: Side


class LaneReader:
    """Reads one lane on from a state. `state` is always that after the pairs given out last."""

    def __init__(self, order: Order, stores: Sequence[Store], lane: int, state: LaneState) -> None:
        self.state = state
        self._order, self._stores, self._lane = order, stores, lane
        self._window = self._load()

    def read(self, budget: Budget) -> Pairs:
        """The next pairs in order, as many as fit into the budget; a window's end is no boundary."""
        source_left, target_left = budget.max_source_tokens, budget.max_target_tokens
        sentences_left = budget.max_sentences
        pieces: list[Pairs] = []
        while True:
            window, start = self._window, self.state.consumed
            stop = min(start + sentences_left, window.source.stop(start, source_left))
            stop = min(stop, window.target.stop(start, target_left))
            pieces.append(window.pairs(start, stop))
            if stop < len(window):
                self.state = replace(self.state, consumed=stop)
                return _joined(pieces)
            source_left -= len(pieces[-1].source.token_L)
            target_left -= len(pieces[-1].target.token_L)
            sentences_left -= stop - start
            self.state = self._order.next_window(self.state)
            self._window = self._load()

    def _load(self) -> "_Window":
        return _Window(self._stores, *self._order.draw(self._lane, self.state))


def _joined(pieces: list[Pairs]) -> Pairs:
    if len(pieces) == 1:
        return pieces[0]
    return Pairs(
        np.concatenate([p.corpus_N for p in pieces]),
        np.concatenate([p.row_N for p in pieces]),
        *(
            Side(np.concatenate([s.token_L for s in sides]), np.concatenate([s.length_N for s in sides]))
            for sides in ([p.source for p in pieces], [p.target for p in pieces])
        ),
    )


class _Window:
    def __init__(self, stores: Sequence[Store], corpus_N: IntArray, row_N: IntArray) -> None:
        self._corpus_N, self._row_N = corpus_N, row_N
        self.source = _WindowSide([store.source for store in stores], corpus_N, row_N)
        self.target = _WindowSide([store.target for store in stores], corpus_N, row_N)

    def __len__(self) -> int:
        return len(self._row_N)

    def pairs(self, start: int, stop: int) -> Pairs:
        sides = (side.sentences(start, stop) for side in (self.source, self.target))
        return Pairs(self._corpus_N[start:stop], self._row_N[start:stop], *sides)


class _WindowSide:
    """Tokens lie grouped by corpus, as they were gathered; starts and lengths are in reading order."""

    def __init__(self, tables: Sequence[TokenTable], corpus_N: IntArray, row_N: IntArray) -> None:
        # Sixteen bits, because numpy then sorts by counting, in a tenth of the time.
        by_corpus_N = np.argsort(corpus_N.astype(np.uint16), kind="stable")
        groups = np.split(row_N[by_corpus_N], np.cumsum(np.bincount(corpus_N, minlength=len(tables)))[:-1])
        parts = [table.gather(rows) for table, rows in zip(tables, groups, strict=True)]
        self._token_L = np.concatenate([tokens for tokens, _ in parts])
        grouped_length_N = np.concatenate([lengths for _, lengths in parts])
        self._start_N, self._length_N = np.empty_like(row_N), np.empty_like(row_N)
        self._start_N[by_corpus_N] = np.cumsum(grouped_length_N) - grouped_length_N
        self._length_N[by_corpus_N] = grouped_length_N
        self._end_N = np.cumsum(self._length_N)

    def stop(self, start: int, max_tokens: int) -> int:
        """The largest stop for which sentences start … stop - 1 hold at most `max_tokens`."""
        before = int(self._end_N[start - 1]) if start else 0
        return int(np.searchsorted(self._end_N, before + max_tokens, side="right"))

    def sentences(self, start: int, stop: int) -> Side:
        length_N = self._length_N[start:stop]
        return Side(self._token_L[token_index(self._start_N[start:stop], length_N)], length_N)
