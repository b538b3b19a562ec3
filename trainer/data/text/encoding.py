"""From the text of sentence pairs to token ids, as the workers of preparation and of streaming do it.

Shape suffixes: N pairs, L tokens of one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.order.hashing import mix64
from trainer.data.text.sentences import Side, chosen
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair


@dataclass(frozen=True)
class EncodedPairs:
    """The pairs that are short enough; kept_N is true for them among all N pairs."""

    source: Side
    target: Side
    kept_N: NDArray[np.bool_]


class PairEncoder:
    """Encodes pairs, with eos at each end, and leaves out those longer than `max_length` tokens (eos included).

    Can be pickled. With `sampling` (`tokenizer.sampling`) the segmentation of a sentence is drawn by its pair's seed
    alone, so that neither blocks nor processes matter; if it is too long, the best one is taken instead.
    """

    def __init__(self, tokenizers: TokenizerPair, max_length: int, sampling: float | None = None) -> None:
        """Raises UserError if `sampling` is given and a tokenizer cannot sample."""
        if sampling is not None:
            tokenizers.source.check_sampling()
            tokenizers.target.check_sampling()
        self._tokenizers, self._max_length, self._sampling = tokenizers, max_length, sampling

    def encode(
        self, sources: Sequence[str | bytes], targets: Sequence[str | bytes], seed_N: NDArray[np.uint64] | None = None
    ) -> EncodedPairs:
        """The pairs of N sources and N targets, in their order; `seed_N` is needed only for sampling."""
        source = self._side(self._tokenizers.source, sources, seed_N)
        # Another seed for the target: otherwise a sentence that is its own translation would be split alike.
        target = self._side(self._tokenizers.target, targets, None if seed_N is None else mix64(seed_N))
        kept_N = np.maximum(source.length_N, target.length_N) <= self._max_length
        if kept_N.all():
            return EncodedPairs(source, target, kept_N)
        return EncodedPairs(chosen(source, np.flatnonzero(kept_N)), chosen(target, np.flatnonzero(kept_N)), kept_N)

    def _side(self, tokenizer: Tokenizer, lines: Sequence[str | bytes], seed_N: NDArray[np.uint64] | None) -> Side:
        if self._sampling is None:
            return tokenizer.encode_side(lines)
        assert seed_N is not None, "sampling draws by seeds"
        drawn = tokenizer.sample_side(lines, self._sampling, seed_N)
        too_long_N = drawn.length_N > self._max_length
        if not too_long_N.any():
            return drawn
        best = tokenizer.encode_side([line for line, too_long in zip(lines, too_long_N, strict=True) if too_long])
        row_N = np.arange(len(lines))
        row_N[too_long_N] = len(lines) + np.arange(len(best.length_N))
        both = Side(np.concatenate([drawn.token_L, best.token_L]), np.concatenate([drawn.length_N, best.length_N]))
        return chosen(both, row_N)
