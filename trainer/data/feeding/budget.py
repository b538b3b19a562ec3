"""How many tokens and sentences a micro-batch may hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import DataConfig

_MULTIPLE = 64
_MAX_RATIO = 4.0


def ceil_div(number: int, divisor: int) -> int:
    """`number / divisor`, rounded up."""
    return -(-number // divisor)


@dataclass(frozen=True)
class Budget:
    """What a micro-batch may hold: real tokens of either side (eos included) and sentences.

    `max_length` bounds each sentence. The budget of each side is at least that, so that one pair always fits.
    """

    max_source_tokens: int
    max_target_tokens: int
    max_sentences: int
    max_length: int

    def __post_init__(self) -> None:
        assert min(self.max_source_tokens, self.max_target_tokens) >= self.max_length, "one pair must always fit"

    @property
    def num_filler_sentences(self) -> int:
        """How many sentences of at most `max_length` tokens fill an empty batch; in a full one each has one token."""
        return ceil_div(max(self.max_source_tokens, self.max_target_tokens) + _MULTIPLE, self.max_length - 1)

    def scaled(self, share: float) -> "Budget | None":
        """This share of every bound except the sentence's length; None if the longest sentence would not fit."""
        source, target, sentences = (
            round(share * bound) for bound in (self.max_source_tokens, self.max_target_tokens, self.max_sentences)
        )
        if min(source, target) < self.max_length:
            return None
        return replace(self, max_source_tokens=source, max_target_tokens=target, max_sentences=max(1, sentences))

    def static_tokens(self, max_tokens: int) -> int:
        """Length of a filled side: the budget plus one token per filler sentence, rounded up to a multiple of 64."""
        return ceil_div(max_tokens + self.num_filler_sentences, _MULTIPLE) * _MULTIPLE


def choose_budget(config: DataConfig, mean_lengths: NDArray[np.float64], shares: Sequence[float]) -> Budget:
    """The budgets of a run from its configuration and its data.

    `mean_lengths` is (corpora, 2): tokens of the source and of the target of a pair; `shares` are those of the corpora.
    Without `data.max_source_tokens` the source budget is `data.max_tokens` times the ratio of the mean lengths, so that
    both sides fill together, but at most four times as large: beyond that, text is no translation. The bound on
    sentences is needed for the static shape; at 1.5 times what the mean length makes likely, micro-batches of random
    pairs do not reach it.
    """
    source, target = np.array(shares) @ mean_lengths
    ratio = min(source / target, _MAX_RATIO)
    max_source = config.max_source_tokens or max(config.max_length, 8 * round(config.max_tokens * ratio / 8))
    max_sentences = 8 * int(np.ceil((1.5 * config.max_tokens / target + 8) / 8))
    return Budget(max_source, config.max_tokens, max_sentences, config.max_length)
