"""The shares of the corpora in the training data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mixture_shares(weights: Sequence[float], sizes: Sequence[int], temperature: float) -> NDArray[np.float64]:
    """The share of each corpus in all pairs: proportional to (weight times pairs)^(1/temperature)."""
    amounts = np.array(weights, dtype=np.float64) * np.array(sizes)
    # Relative to the largest, so that a small temperature does not overflow.
    amounts = (amounts / amounts.max()) ** (1 / temperature)
    shares: NDArray[np.float64] = amounts / amounts.sum()
    return shares
