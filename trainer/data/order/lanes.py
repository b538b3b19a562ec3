"""The order in which pairs are read: lanes, windows and passes, as pure functions of a few integers.

Shape suffixes: N draws, C corpora.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainer.data.order.mixture import mixture_shares
from trainer.data.order.seeds import row_keys, window_key
from trainer.data.order.shuffling import Draws, shuffled

_SHARE_UNITS = 1 << 40


@dataclass(frozen=True)
class LaneState:
    """The position of a lane: `consumed` pairs of window number `window`.

    `positions` counts, per corpus, the pairs that this lane drew in earlier windows.
    """

    window: int
    consumed: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order of the training pairs. `sizes` are the pairs of each corpus, `window` the pairs of a window.

    Each corpus is read without end, reshuffled in every pass, and its draws go to the lanes in turn: lane l gets draws
    l, l + num_lanes, … So every pair occurs once per pass over all lanes, also in a corpus with fewer pairs than lanes.
    """

    seed: int
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    temperature: float
    window: int
    num_lanes: int

    def start(self) -> LaneState:
        """The state of a lane before its first pair."""
        return LaneState(0, 0, (0,) * len(self.sizes))

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each corpus in all draws."""
        return mixture_shares(self.weights, self.sizes, self.temperature)

    def draw(self, lane: int, state: LaneState) -> Draws:
        """The pairs of the window at `state`, in reading order."""
        counts = self._counts(lane, state)
        corpus_N = np.repeat(np.arange(len(counts)), counts)
        positions = [np.arange(at, at + n) for at, n in zip(state.positions, counts, strict=True)]
        draws = shuffled(corpus_N, lane + self.num_lanes * np.concatenate(positions), self.sizes, self._row_keys)
        key = window_key(self.seed, lane, state.window)
        place_N = np.arange(self.window)
        order_N = shuffled(np.zeros_like(place_N), place_N, [self.window], [key]).row_N
        return Draws(draws.corpus_N[order_N], draws.row_N[order_N], draws.pass_N[order_N])

    def next_window(self, lane: int, state: LaneState) -> LaneState:
        """The state at the start of the next window."""
        positions = (at + count for at, count in zip(state.positions, self._counts(lane, state), strict=True))
        return LaneState(state.window + 1, 0, tuple(positions))

    @cached_property
    def _row_keys(self) -> list[int]:
        return row_keys(self.seed, len(self.sizes))

    @cached_property
    def _share_units(self) -> list[int]:
        """The shares in whole units of 2^-40, because rounding of fractions may differ between machines."""
        units = [max(1, round(share * _SHARE_UNITS)) for share in self.shares.tolist()]
        units[int(np.argmax(units))] += _SHARE_UNITS - sum(units)
        return units

    def _lead(self, lane: int, corpus: int) -> int:
        """How far a lane is ahead of a corpus's exact share, in units: between -1/2 and 1/2 of a pair.

        It differs evenly between the lanes: otherwise all of them would read a small corpus in the same window. With 4
        lanes, lanes 0, 1, 2, 3 are ahead by -3/8, -1/8, 1/8, 3/8 of a pair of corpus 0; for corpus 1 the next lane
        takes each place.
        """
        turn = (lane + corpus) % self.num_lanes
        return (2 * turn + 1 - self.num_lanes) * _SHARE_UNITS // (2 * self.num_lanes)

    def _counts(self, lane: int, state: LaneState) -> list[int]:
        """How many pairs of each corpus the window takes: what the corpus lacks of its share, rounded; the largest
        corpus takes the rest.

        Two corpora with shares 0.9 and 0.1, windows of 16 pairs, a lane that is ahead by 0: the small one is owed 1.6
        pairs by the end of window 0, so it gives 2 and the large one 14. By the end of window 1 it is owed 3.2
        and gave 2: 1.2 are lacking, so it gives 1 and the large one 15.
        """
        drawn = self.window * (state.window + 1)
        lacking = [
            units * drawn - at * _SHARE_UNITS + self._lead(lane, corpus)
            for corpus, (units, at) in enumerate(zip(self._share_units, state.positions, strict=True))
        ]
        counts = [max(0, (lack + _SHARE_UNITS // 2) // _SHARE_UNITS) for lack in lacking]
        largest = self._share_units.index(max(self._share_units))
        counts[largest] = 0
        counts[largest] = max(0, self.window - sum(counts))
        while sum(counts) > self.window:  # if there are more corpora than pairs in a window
            owed = {corpus: lacking[corpus] - count * _SHARE_UNITS for corpus, count in enumerate(counts) if count}
            counts[min(owed, key=lambda corpus: owed[corpus])] -= 1
        return counts
