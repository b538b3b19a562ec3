"""Endless reading of corpora, reshuffled in each pass, computed at any position without memory.

Shape suffixes: N draws, C corpora, R stretches: neighbouring draws of one pass over one corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.order.hashing import mix64
from trainer.data.text.sentences import IntArray

_NUM_ROUNDS = 4


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
    """The rows that the given draws of endless, reshuffled readings of corpora of these `sizes` are.

    Draw d of a corpus belongs to pass d // size. Within each pass every row occurs once, in an order fixed by the pass
    and the corpus's key. Takes no memory beyond the draws: the permutation is computed by rounds of multiply, add and
    shift in the smallest power-of-two domain that holds the rows; a result that is no row is permuted again (cycle
    walking). Fast if draws of one corpus and pass are neighbours.
    """
    pass_N, place_N = np.divmod(draw_N, np.array(sizes, dtype=np.int64)[corpus_N])
    starts_N = np.ones(len(draw_N), dtype=bool)
    starts_N[1:] = (corpus_N[1:] != corpus_N[:-1]) | (pass_N[1:] != pass_N[:-1])
    stretch_N, first_R = np.cumsum(starts_N) - 1, np.flatnonzero(starts_N)
    permutations = _Permutations.of(corpus_N[first_R], pass_N[first_R], sizes, keys)
    return Draws(corpus_N, permutations.apply(place_N.astype(np.uint64), stretch_N).astype(np.int64), pass_N)


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

    def apply(self, x_N: NDArray[np.uint64], stretch_N: IntArray) -> NDArray[np.uint64]:
        """The image of each number under the permutation of its stretch."""
        x_N = self._scramble(x_N, stretch_N)
        while len(outside := np.flatnonzero(x_N >= _spread(self.size_R, stretch_N))):
            x_N[outside] = self.apply(x_N[outside], stretch_N[outside])
        return x_N

    def _scramble(self, x_N: NDArray[np.uint64], stretch_N: IntArray) -> NDArray[np.uint64]:
        """A permutation of the whole domain."""
        mask_N, shift_N = _spread(self.mask_R, stretch_N), _spread(self.shift_R, stretch_N)
        for multiplier_R, addend_R in self.keys_2R:
            x_N = (x_N * _spread(multiplier_R, stretch_N) + _spread(addend_R, stretch_N)) & mask_N
            x_N ^= x_N >> shift_N
        return x_N


def _spread(value_R: NDArray[np.uint64], stretch_N: IntArray) -> NDArray[np.uint64]:
    """The value of each draw's stretch; a single one is left to broadcasting, which is several times faster."""
    return value_R if len(value_R) == 1 else value_R[stretch_N]
