"""Sentences, as tokens or as text, in flat arrays: the form of all data between files and micro-batches.

Shape suffixes: N sentences, L their items (tokens, or bytes of text).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
IdPair = tuple[list[int], list[int]]
"""Source and target ids of one pair, eos at the end of each."""


@dataclass(frozen=True)
class Side:
    """N sentences of one language, concatenated; tokens have eos at the end of each."""

    token_L: NDArray[Any]
    length_N: IntArray


def token_index(start_N: IntArray, length_N: IntArray) -> IntArray:
    """index_L: start, start + 1, … start + length - 1 of each of N ranges, concatenated."""
    end_N = np.cumsum(length_N)
    index_L = np.arange(end_N[-1] if len(end_N) else 0)
    index_L += np.repeat(start_N - (end_N - length_N), length_N)
    return index_L


def chosen(side: Side, row_N: IntArray) -> Side:
    """The sentences at the given positions, in that order."""
    start_N = np.cumsum(side.length_N) - side.length_N
    length_N = side.length_N[row_N]
    return Side(side.token_L[token_index(start_N[row_N], length_N)], length_N)
