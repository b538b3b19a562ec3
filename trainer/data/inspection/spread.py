"""Rows that stand for a whole corpus."""

import numpy as np

from trainer.data.text.sentences import IntArray


def spread(num_pairs: int, count: int) -> IntArray:
    """At most `count` rows: the middle of each of as many equal parts."""
    count = min(count, num_pairs)
    return (2 * np.arange(count, dtype=np.int64) + 1) * num_pairs // (2 * count)
