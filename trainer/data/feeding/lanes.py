"""In which order the pairs are read: lanes, windows and passes, as pure functions of a few integers.

Shape suffixes: N draws, C corpora, R runs of draws of one pass over one corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainer.data.hashing import mix64, stable_hash
from trainer.data.mixture import mixture_shares
from trainer.data.sentences import IntArray

_NUM_ROUNDS = 4
_SHARE_UNITS = 1 << 40

# What a hash of the run's seed is for.
_ROWS, _WINDOWS, _DROPOUT, _SAMPLING = range(4)


def dropout_seed(seed: int, index: int) -> int:
    """For micro-batch `index` of a run; 63 bits, because libraries take seeds as signed 64-bit numbers."""
    return stable_hash(seed, _DROPOUT, index) >> 1


@dataclass(frozen=True)
class Draws:
    """N pairs in reading order: row_N of corpus_N (both from 0), read for the pass_N-th time (from 0)."""

    corpus_N: IntArray
    row_N: IntArray
    pass_N: IntArray

    def __len__(self) -> int:
        return len(self.row_N)

    def part(self, start: int, stop: int) -> "Draws":
        return Draws(self.corpus_N[start:stop], self.row_N[start:stop], self.pass_N[start:stop])


def shuffled(corpus_N: IntArray, draw_N: IntArray, sizes: Sequence[int], keys: Sequence[int]) -> Draws:
    """What endless, reshuffled readings of corpora of these `sizes` meet at the given draws.

    Draw d of a corpus belongs to pass d // size; within each pass every row occurs once, in an order of its own, fixed
    by the corpus's key. Costs no memory beyond the draws: the permutation is computed, by rounds of multiply, add and
    shift in the smallest power-of-two domain that holds the rows, where a result outside of them is sent through
    again (cycle walking). Fast where draws of one corpus and pass lie together.
    """
    pass_N, place_N = np.divmod(draw_N, np.array(sizes, dtype=np.int64)[corpus_N])
    starts_N = np.ones(len(draw_N), dtype=bool)
    starts_N[1:] = (corpus_N[1:] != corpus_N[:-1]) | (pass_N[1:] != pass_N[:-1])
    run_N, first_R = np.cumsum(starts_N) - 1, np.flatnonzero(starts_N)
    permutations = _Permutations.of(corpus_N[first_R], pass_N[first_R], sizes, keys)
    return Draws(corpus_N, permutations.apply(place_N.astype(np.uint64), run_N).astype(np.int64), pass_N)


@dataclass(frozen=True)
class _Permutations:
    """R permutations of 0 … size_R - 1; keys_2R has an odd multiplier and an addend for each round."""

    size_R: NDArray[np.uint64]
    mask_R: NDArray[np.uint64]
    shift_R: NDArray[np.uint64]
    keys_2R: tuple[NDArray[np.uint64], ...]

    @classmethod
    def of(cls, corpus_R: IntArray, pass_R: IntArray, sizes: Sequence[int], keys: Sequence[int]) -> "_Permutations":
        bits = [max(1, (size - 1).bit_length()) for size in sizes]
        size_C, mask_C = np.array(sizes, np.uint64), np.array([(1 << b) - 1 for b in bits], np.uint64)
        shift_C = np.array([(b + 1) // 2 for b in bits], np.uint64)
        place_C = np.arange(2 * _NUM_ROUNDS, dtype=np.uint64)[:, None] ^ np.array(keys, np.uint64)
        word_R = mix64(mix64(pass_R.astype(np.uint64)) ^ mix64(place_C)[:, corpus_R])
        keys_2R = word_R.reshape(_NUM_ROUNDS, 2, -1)
        keys_2R[:, 0] |= np.uint64(1)
        return cls(size_C[corpus_R], mask_C[corpus_R], shift_C[corpus_R], tuple(keys_2R))

    def apply(self, x_N: NDArray[np.uint64], run_N: IntArray) -> NDArray[np.uint64]:
        """The image of each number under the permutation of its run."""
        x_N = self._scramble(x_N, run_N)
        while len(outside := np.flatnonzero(x_N >= _spread(self.size_R, run_N))):
            x_N[outside] = self.apply(x_N[outside], run_N[outside])
        return x_N

    def _scramble(self, x_N: NDArray[np.uint64], run_N: IntArray) -> NDArray[np.uint64]:
        """A permutation of the whole domain."""
        mask_N, shift_N = _spread(self.mask_R, run_N), _spread(self.shift_R, run_N)
        for multiplier_R, addend_R in self.keys_2R:
            x_N = (x_N * _spread(multiplier_R, run_N) + _spread(addend_R, run_N)) & mask_N
            x_N ^= x_N >> shift_N
        return x_N


def _spread(value_R: NDArray[np.uint64], run_N: IntArray) -> NDArray[np.uint64]:
    """The value of each draw's run; a single one is left to broadcasting, which is several times faster."""
    return value_R if len(value_R) == 1 else value_R[run_N]


@dataclass(frozen=True)
class LaneState:
    """Where a lane stands: `consumed` pairs of window number `window`.

    `positions` counts, per corpus, the pairs that this lane drew before the window.
    """

    window: int
    consumed: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order of the training pairs. `sizes` are the pairs of each corpus, `window` the pairs of a window.

    The draws of a corpus are dealt to the lanes in turn: lane l gets draws l, l + num_lanes, … of the endless
    reshuffled reading, so every pair occurs once per pass over all lanes, however few pairs there are.
    """

    seed: int
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    temperature: float
    window: int
    num_lanes: int

    def start(self) -> LaneState:
        """The state of a lane that has read nothing."""
        return LaneState(0, 0, (0,) * len(self.sizes))

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each corpus in all draws."""
        return mixture_shares(self.weights, self.sizes, self.temperature)

    def draw(self, lane: int, state: LaneState) -> Draws:
        """The window at `state` in reading order."""
        counts = self._counts(state)
        corpus_N = np.repeat(np.arange(len(counts)), counts)
        positions = [np.arange(at, at + n) for at, n in zip(state.positions, counts, strict=True)]
        draws = shuffled(corpus_N, lane + self.num_lanes * np.concatenate(positions), self.sizes, self._row_keys)
        window_key = stable_hash(self.seed, _WINDOWS, lane, state.window)
        place_N = np.arange(self.window)
        order_N = shuffled(np.zeros_like(place_N), place_N, [self.window], [window_key]).row_N
        return Draws(draws.corpus_N[order_N], draws.row_N[order_N], draws.pass_N[order_N])

    def next_window(self, state: LaneState) -> LaneState:
        """The start of the window after the one at `state`."""
        positions = (at + count for at, count in zip(state.positions, self._counts(state), strict=True))
        return LaneState(state.window + 1, 0, tuple(positions))

    def sampling_seeds(self, draws: Draws) -> NDArray[np.uint64]:
        """seed_N for what is drawn at random for a pair: of the run's seed, corpus, pass and row alone."""
        key_C = np.array([stable_hash(self.seed, _SAMPLING, c) for c in range(len(self.sizes))], np.uint64)
        word_N = mix64(key_C[draws.corpus_N] ^ draws.pass_N.astype(np.uint64))
        return mix64(word_N ^ draws.row_N.astype(np.uint64))

    @cached_property
    def _row_keys(self) -> list[int]:
        return [stable_hash(self.seed, _ROWS, corpus) for corpus in range(len(self.sizes))]

    @cached_property
    def _share_units(self) -> list[int]:
        """The shares in whole units, so that rounding, which may differ between machines, never decides a draw."""
        units = [round(share * _SHARE_UNITS) for share in self.shares.tolist()]
        units[int(np.argmax(units))] += _SHARE_UNITS - sum(units)
        return units

    def _counts(self, state: LaneState) -> list[int]:
        """Pairs of each corpus in the window: what each lacks of its exact share so far, in whole pairs."""
        drawn = self.window * (state.window + 1)
        lacking = [u * drawn - at * _SHARE_UNITS for u, at in zip(self._share_units, state.positions, strict=True)]
        counts = [max(0, lack // _SHARE_UNITS) for lack in lacking]
        while missing := self.window - sum(counts):
            owed = [lack - count * _SHARE_UNITS for lack, count in zip(lacking, counts, strict=True)]
            if missing > 0:
                counts[owed.index(max(owed))] += 1
            else:
                least = min(o for o, count in zip(owed, counts, strict=True) if count)
                counts[next(c for c, o in enumerate(owed) if o == least and counts[c])] -= 1
        return counts
