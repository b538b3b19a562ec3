"""Which loss is too high to learn from: a bound computed from the losses of the steps before."""

import statistics
from collections import deque
from collections.abc import Iterable

HISTORY = 100  # steps that the bound looks back on
_LEAST = 20  # steps before there is a bound
_NORMAL = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


class LossSpikes:
    """Keeps the losses of the last steps that were applied. With `threshold` None there is no bound."""

    def __init__(self, threshold: float | None, losses: Iterable[float] = ()) -> None:
        self._threshold = threshold
        self._losses = deque(losses, maxlen=HISTORY)

    @property
    def losses(self) -> list[float]:
        """What a resumed run needs to find the same spikes."""
        return list(self._losses) if self._threshold is not None else []

    def bound(self) -> float | None:
        """The loss above which a step is a spike: `threshold` robust standard deviations above the median."""
        if self._threshold is None or len(self._losses) < _LEAST:
            return None
        median = statistics.median(self._losses)
        deviation = statistics.median(abs(loss - median) for loss in self._losses)
        return median + self._threshold * _NORMAL * deviation

    def add(self, loss: float) -> None:
        """Records the loss of a step that was applied."""
        self._losses.append(loss)
