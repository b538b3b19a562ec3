"""The pairs of a lane with their tokens: requested one chunk at a time, returned one budget at a time.

Shape suffixes: N pairs, L their tokens; 3 what a budget bounds: sentences, source tokens, target tokens.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.feeding.budget import Budget
from trainer.data.order.lanes import LaneState, Order
from trainer.data.order.shuffling import Draws
from trainer.data.text.encoding import EncodedPairs
from trainer.data.text.sentences import IntArray, Side

Pending = Callable[[], EncodedPairs]


class PairSource(Protocol):
    """Source of the tokens of pairs. `chunk_pairs` is how many pairs it prefers in one request."""

    chunk_pairs: int

    def request(self, draws: Draws) -> Pending:
        """Requests these pairs. Calling the result waits for them and returns them."""

    def chunks_ahead(self, num_lanes: int, num_pairs: int) -> int:
        """How many chunks each of `num_lanes` lanes should request ahead if it needs up to `num_pairs` at a time."""

    def mean_lengths(self) -> NDArray[np.float64]:
        """(corpora, 2): the mean number of source and of target tokens of a pair, measured or estimated."""

    def close(self) -> None:
        """Drops pending requests and ends processes."""


@dataclass(frozen=True)
class Pairs:
    """N pairs in reading order, identified by corpus_N and row_N. `too_long` has the corpora of skipped pairs."""

    corpus_N: IntArray
    row_N: IntArray
    source: Side
    target: Side
    too_long: IntArray


class LaneReader:
    """Reads one lane from a state on.

    `state` is the position of the next pair that is not too long, so it does not depend on where chunks begin.
    """

    def __init__(self, order: Order, lane: int, state: LaneState, source: PairSource) -> None:
        self.state = state
        self._chunks = _chunks(order, lane, state, source.chunk_pairs)
        self._source = source
        self._waiting: deque[tuple[LaneState, Draws, Pending]] = deque()
        self._chunk: _Chunk | None = None
        self._place = 0

    def look_ahead(self, num_chunks: int) -> None:
        """Requests chunks until `num_chunks` are pending, not counting the current one."""
        while len(self._waiting) < num_chunks:
            start, draws = next(self._chunks)
            self._waiting.append((start, draws, self._source.request(draws)))

    def read(self, budget: Budget) -> Pairs:
        """The next pairs, as many as fit into the budget, across the ends of chunks and windows."""
        room_3 = np.array([budget.max_sentences, budget.max_source_tokens, budget.max_target_tokens])
        found: list[Pairs] = []
        while True:
            chunk = self._chunk or self._next_chunk()
            stop = chunk.stop(self._place, room_3)
            found.append(chunk.pairs(self._place, stop))
            room_3 -= chunk.amounts(self._place, stop)
            self._place = stop
            if stop < len(chunk):
                self.state = replace(chunk.start, consumed=chunk.start.consumed + stop)
                return _joined(found)
            self._chunk = None

    def _next_chunk(self) -> "_Chunk":
        self.look_ahead(1)
        start, draws, pending = self._waiting.popleft()
        self._chunk, self._place = _Chunk(start, draws, pending()), 0
        return self._chunk


def _chunks(order: Order, lane: int, state: LaneState, chunk_pairs: int) -> Iterator[tuple[LaneState, Draws]]:
    """Without end: chunks of the windows from `state` on, each with the state before it.

    The first chunk is smaller, because a run that starts or resumes waits for the first chunks of all its lanes.
    """
    size = chunk_pairs // 4
    while True:
        window, first = order.draw(lane, state), state.consumed
        while first < order.window:
            yield replace(state, consumed=first), window.part(first, first + size)
            first, size = first + size, chunk_pairs
        state = order.next_window(lane, state)


class _Chunk:
    """Neighbouring pairs of a lane; those that are too long take no room."""

    def __init__(self, start: LaneState, draws: Draws, encoded: EncodedPairs) -> None:
        self.start = start
        self._kept_N, self._corpus_N = encoded.kept_N, draws.corpus_N
        self._source, self._target = encoded.source, encoded.target
        self._kept_corpus_N, self._kept_row_N = draws.corpus_N[encoded.kept_N], draws.row_N[encoded.kept_N]
        amounts_3N = np.zeros((3, len(draws)), np.int64)
        amounts_3N[0] = encoded.kept_N
        amounts_3N[1, encoded.kept_N] = self._source.length_N
        amounts_3N[2, encoded.kept_N] = self._target.length_N
        self._before_3N = np.zeros((3, len(draws) + 1), np.int64)
        np.cumsum(amounts_3N, axis=1, out=self._before_3N[:, 1:])

    def __len__(self) -> int:
        return len(self._kept_N)

    def amounts(self, start: int, stop: int) -> IntArray:
        """amounts_3: what pairs start … stop - 1 take of a budget."""
        amounts: IntArray = self._before_3N[:, stop] - self._before_3N[:, start]
        return amounts

    def stop(self, start: int, room_3: IntArray) -> int:
        """The largest stop for which pairs start … stop - 1 fit."""
        limit_3 = self._before_3N[:, start] + room_3
        stops = (before.searchsorted(limit, "right") for before, limit in zip(self._before_3N, limit_3, strict=True))
        return int(min(stops)) - 1

    def pairs(self, start: int, stop: int) -> Pairs:
        (first, source_first, target_first), (last, source_last, target_last) = self._before_3N[:, [start, stop]].T
        return Pairs(
            self._kept_corpus_N[first:last],
            self._kept_row_N[first:last],
            Side(self._source.token_L[source_first:source_last], self._source.length_N[first:last]),
            Side(self._target.token_L[target_first:target_last], self._target.length_N[first:last]),
            self._corpus_N[start:stop][~self._kept_N[start:stop]],
        )


def _joined(pairs: list[Pairs]) -> Pairs:
    if len(pairs) == 1:
        return pairs[0]
    return Pairs(
        np.concatenate([p.corpus_N for p in pairs]),
        np.concatenate([p.row_N for p in pairs]),
        _joined_sides([p.source for p in pairs]),
        _joined_sides([p.target for p in pairs]),
        np.concatenate([p.too_long for p in pairs]),
    )


def _joined_sides(sides: list[Side]) -> Side:
    return Side(np.concatenate([side.token_L for side in sides]), np.concatenate([side.length_N for side in sides]))
