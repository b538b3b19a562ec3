"""In which order the pairs are read: lanes, windows and passes, as pure functions of a few integers.

Shape suffix: N pairs of a window.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.sentences import IntArray

_NUM_ROUNDS = 4


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words that looks random.

    Our own rather than a library's generator, because a resumed run must find the same order after an upgrade.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stable_hash(*values: int) -> int:
    """A 64-bit word from integers, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(",".join(map(str, values)).encode(), digest_size=8).digest(), "little")


def shuffled(draws_N: IntArray, size: int, key: int) -> IntArray:
    """The rows that an endless, reshuffled reading of `size` rows meets at the given draws (ascending).

    Draw d belongs to pass d // size; within each pass every row occurs once, in an order of its own. Costs no memory
    beyond the draws: the permutation is computed, by rounds of multiply, add and shift in the smallest power-of-two
    domain that holds the rows, where a result outside of them is sent through again (cycle walking).
    """
    passes_N, x_N = np.divmod(draws_N, size)
    domain_bits = max(1, (size - 1).bit_length())
    first_pass = int(passes_N[0]) if len(passes_N) else 0
    num_passes = int(passes_N[-1]) - first_pass + 1 if len(passes_N) else 0
    keys = _round_keys(key, first_pass, num_passes)
    key_index_N = passes_N - first_pass
    rows_N = _permute(x_N.astype(np.uint64), keys[:, :, key_index_N], domain_bits)
    while (outside_N := rows_N >= size).any():
        rows_N[outside_N] = _permute(rows_N[outside_N], keys[:, :, key_index_N[outside_N]], domain_bits)
    return rows_N.astype(np.int64)


def _round_keys(key: int, first_pass: int, num_passes: int) -> NDArray[np.uint64]:
    """(rounds, 2, passes): an odd multiplier and an addend for each round of each pass."""
    passes = np.arange(first_pass, first_pass + num_passes, dtype=np.uint64)
    places = mix64(np.arange(2 * _NUM_ROUNDS, dtype=np.uint64) ^ np.uint64(key)).reshape(_NUM_ROUNDS, 2, 1)
    keys = mix64(mix64(passes) ^ places)
    keys[:, 0] |= np.uint64(1)
    return keys


def _permute(x_N: NDArray[np.uint64], keys: NDArray[np.uint64], domain_bits: int) -> NDArray[np.uint64]:
    mask, shift = np.uint64((1 << domain_bits) - 1), np.uint64((domain_bits + 1) // 2)
    for multiplier_N, addend_N in keys:
        x_N = (x_N * multiplier_N + addend_N) & mask
        x_N = x_N ^ (x_N >> shift)
    return x_N


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
    window: int
    num_lanes: int

    def start(self) -> LaneState:
        """The state of a lane that has read nothing."""
        return LaneState(0, 0, (0,) * len(self.sizes))

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each corpus in all draws: proportional to weight times size."""
        amounts = np.array(self.weights) * np.array(self.sizes)
        return amounts / amounts.sum()

    def draw(self, lane: int, state: LaneState) -> tuple[IntArray, IntArray]:
        """The window at `state`: corpus_N and row_N of its pairs in reading order."""
        counts = self._counts(state)
        rows = [self._rows(lane, corpus, state.positions[corpus], count) for corpus, count in enumerate(counts)]
        key = stable_hash(self.seed, 1, lane, state.window)
        # The mixed words are all different, so any sort gives the one order.
        order_N = np.argsort(mix64(np.arange(self.window, dtype=np.uint64) ^ np.uint64(key)))
        return np.repeat(np.arange(len(counts)), counts)[order_N], np.concatenate(rows)[order_N]

    def next_window(self, state: LaneState) -> LaneState:
        """The start of the window after the one at `state`."""
        positions = np.array(state.positions, dtype=np.int64) + self._counts(state)
        return LaneState(state.window + 1, 0, tuple(positions.tolist()))

    def _rows(self, lane: int, corpus: int, position: int, count: int) -> IntArray:
        draws = lane + self.num_lanes * np.arange(position, position + count, dtype=np.int64)
        return shuffled(draws, self.sizes[corpus], stable_hash(self.seed, 0, corpus))

    def _counts(self, state: LaneState) -> IntArray:
        """Pairs of each corpus in the window: what each lacks of its exact share so far, in whole pairs."""
        deficits = self.shares * self.window * (state.window + 1) - np.array(state.positions)
        counts = np.maximum(np.floor(deficits), 0).astype(np.int64)
        while missing := self.window - int(counts.sum()):
            owed = deficits - counts
            if missing > 0:
                counts[np.argmax(owed)] += 1
            else:
                counts[np.argmin(np.where(counts > 0, owed, np.inf))] -= 1
        return counts
