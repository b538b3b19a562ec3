"""Seeds for everything that is drawn at random, derived from the seed of the run; so no random state needs saving.

Shape suffixes: N draws, C corpora.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.data.order.hashing import mix64, stable_hash
from trainer.data.order.shuffling import Draws

# What a seed is for. The numbers decide the order of the data in every existing run: never change one.
_ROWS, _WINDOWS, _DROPOUT, _SAMPLING = range(4)


def row_keys(seed: int, num_corpora: int) -> list[int]:
    """The key of each corpus's permutations of its rows."""
    return [stable_hash(seed, _ROWS, corpus) for corpus in range(num_corpora)]


def window_key(seed: int, lane: int, window: int) -> int:
    """The key of the permutation that mixes the pairs of one window of a lane."""
    return stable_hash(seed, _WINDOWS, lane, window)


def dropout_seed(seed: int, index: int) -> int:
    """The seed of dropout in micro-batch `index`: 63 bits, because libraries take signed 64-bit numbers."""
    return stable_hash(seed, _DROPOUT, index) >> 1


def sampling_seeds(seed: int, num_corpora: int, draws: Draws) -> NDArray[np.uint64]:
    """seed_N of the segmentation of each pair, a function of the run's seed, corpus, pass and row alone."""
    key_C = np.array([stable_hash(seed, _SAMPLING, c) for c in range(num_corpora)], np.uint64)
    word_N = mix64(key_C[draws.corpus_N] ^ draws.pass_N.astype(np.uint64))
    return mix64(word_N ^ draws.row_N.astype(np.uint64))
