"""A report on one corpus of a run, to read before training.

Shape suffix: N pairs of a sample that is spread evenly over the corpus.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.inspection.round_trip import RoundTrip
from trainer.data.inspection.spread import spread
from trainer.data.stores.store import Store
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import IntArray
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair
from trainer.errors import UserError

# Enough for the second digit of the rarest length shown; encoding 10,000 pairs takes a second.
_SAMPLE_OF_TOKENS = 100_000
_SAMPLE_OF_TEXT = 10_000
_NUM_BINS = 12
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_NUM_TOO_LONG = 3


@dataclass(frozen=True)
class Sentence:
    """One side of a pair; in a token store, the text is decoded from its ids."""

    text: str
    pieces: list[str]
    ids: list[int]


@dataclass(frozen=True)
class Distribution:
    """The distribution of a value over the pairs; `percentiles` by the percentage of pairs below."""

    mean: float
    percentiles: dict[str, float]


@dataclass(frozen=True)
class SideReport:
    """One side of a corpus. Tokens include eos; `num_tokens` counts those of one pass.

    `histogram[k]` is the share of sentences with 1 + k * bin_width … (k + 1) * bin_width tokens, the last one with all
    longer sentences.
    """

    num_tokens: int
    lengths: Distribution
    bin_width: int
    histogram: list[float]


@dataclass(frozen=True)
class CorpusReport:
    """One corpus of the mixture.

    `share` is its share of all pairs read, `ratio` has the target tokens per source token. Lengths and ratio are those
    of `num_sampled` pairs. With `is_estimate` the numbers of tokens and of too long pairs are projected from those.
    `rejected` counts by reason the pairs left out, `rejected_examples` has some of each as (source, target).
    `target_round_trip` is None if the text is gone.
    """

    name: str
    num_pairs: int
    share: float
    steps_per_pass: float
    source: SideReport
    target: SideReport
    ratio: Distribution
    num_sampled: int
    is_estimate: bool
    rejected: dict[str, int]
    rejected_examples: dict[str, list[tuple[str, str]]]
    examples: list[tuple[Sentence, Sentence]]
    target_round_trip: RoundTrip | None = None


class CorpusSample:
    """The lengths of a sample of pairs spread evenly over one corpus; of all pairs, if they are not too many."""

    def __init__(self, store: Store, encoder: PairEncoder | None) -> None:
        self._store, self._encoder = store, encoder
        self.num_pairs = store.manifest.num_pairs
        self._row_N = spread(self.num_pairs, _SAMPLE_OF_TEXT if encoder else _SAMPLE_OF_TOKENS)
        if encoder is None:
            self._source_N, self._target_N = store.source.lengths(self._row_N), store.target.lengths(self._row_N)
            self._too_long_N = np.zeros(0, np.int64)
        else:
            self._encode(encoder)

    def _encode(self, encoder: PairEncoder) -> None:
        texts = self._store.source.texts(self._row_N), self._store.target.texts(self._row_N)
        encoded = encoder.encode(*texts, self._row_N.astype(np.uint64))
        self._source_N, self._target_N = encoded.source.length_N, encoded.target.length_N
        self._too_long_N = self._row_N[~encoded.kept_N]
        if not encoded.kept_N.any():
            raise UserError(
                f"the corpus {self._store.manifest.name} has no pair within `data.max_length` tokens among the "
                f"{len(self._row_N):,} that were looked at: raise `data.max_length` or leave the corpus out."
            )

    def report(self, tokenizers: TokenizerPair, share: float, steps: float, num_examples: int) -> CorpusReport:
        manifest = self._store.manifest
        width = _bin_width(np.concatenate([self._source_N, self._target_N]))
        # How many pairs a sampled one stands for; a token store knows its totals.
        scale = self.num_pairs / len(self._row_N)
        totals = (
            (manifest.num_source_items, manifest.num_target_items)
            if self._encoder is None
            else (round(self._source_N.sum() * scale), round(self._target_N.sum() * scale))
        )
        return CorpusReport(
            name=manifest.name,
            num_pairs=self.num_pairs,
            share=share,
            steps_per_pass=steps,
            source=_side(self._source_N, totals[0], width),
            target=_side(self._target_N, totals[1], width),
            ratio=_distribution(self._target_N / self._source_N),
            num_sampled=len(self._row_N),
            is_estimate=self._encoder is not None,
            rejected=manifest.rejected | self._projected_too_long(scale),
            rejected_examples={reason: [(s, t) for s, t in pairs] for reason, pairs in manifest.examples.items()}
            | self._too_long_examples(),
            examples=_examples(self._store, tokenizers, num_examples),
        )

    def _projected_too_long(self, scale: float) -> dict[str, int]:
        return {"too long": round(len(self._too_long_N) * scale)} if len(self._too_long_N) else {}

    def _too_long_examples(self) -> dict[str, list[tuple[str, str]]]:
        if not len(self._too_long_N):
            return {}
        sources, targets = _texts(self._store, self._too_long_N[:_NUM_TOO_LONG])
        return {"too long": list(zip(sources, targets, strict=True))}


def _distribution(value_N: NDArray[np.float64] | IntArray) -> Distribution:
    values = np.percentile(value_N, _PERCENTILES).tolist()
    return Distribution(float(value_N.mean()), {str(p): value for p, value in zip(_PERCENTILES, values, strict=True)})


def _bin_width(length_N: IntArray) -> int:
    """1, 2 or 5 times a power of ten, such that at most one sentence in a hundred is in the open last bin."""
    needed = float(np.percentile(length_N, 99)) / (_NUM_BINS - 1)
    return next(step for n in range(9) for step in (10**n, 2 * 10**n, 5 * 10**n) if step >= needed)


def _side(length_N: IntArray, num_tokens: int, bin_width: int) -> SideReport:
    bin_N = np.minimum((length_N - 1) // bin_width, _NUM_BINS - 1)
    histogram = np.bincount(bin_N, minlength=_NUM_BINS) / len(length_N)
    return SideReport(num_tokens, _distribution(length_N), bin_width, histogram.tolist())


def _texts(store: Store, row_N: IntArray) -> tuple[list[str], list[str]]:
    sources, targets = ([text.decode() for text in table.texts(row_N)] for table in (store.source, store.target))
    return sources, targets


def _examples(store: Store, tokenizers: TokenizerPair, count: int) -> list[tuple[Sentence, Sentence]]:
    row_N = spread(store.manifest.num_pairs, count)
    if store.manifest.kind == "text":
        sides = [
            [_encoded(text, tokenizer) for text in texts]
            for texts, tokenizer in zip(_texts(store, row_N), (tokenizers.source, tokenizers.target), strict=True)
        ]
    else:
        sides = [
            [_decoded(table.gather(row_N[n : n + 1]).token_L.tolist(), tokenizer) for n in range(len(row_N))]
            for table, tokenizer in ((store.source, tokenizers.source), (store.target, tokenizers.target))
        ]
    return list(zip(*sides, strict=True))


def _encoded(text: str, tokenizer: Tokenizer) -> Sentence:
    ids = tokenizer.encode_side([text]).token_L.tolist()
    return Sentence(text, tokenizer.pieces(ids), ids)


def _decoded(ids: list[int], tokenizer: Tokenizer) -> Sentence:
    return Sentence(tokenizer.decode([ids])[0], tokenizer.pieces(ids), ids)
