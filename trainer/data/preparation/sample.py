"""The text that a tokenizer is trained on: a fixed sample of the mixture.

Shape suffix: N pairs of a block.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.corpora.sources import Block, corpus_name, corpus_place, read_pairs
from trainer.data.order.hashing import mix64, stable_hash
from trainer.data.order.mixture import mixture_shares
from trainer.data.order.shuffling import shuffled
from trainer.data.preparation.filters import REASONS, PairFilter
from trainer.data.preparation.progress import show_progress
from trainer.data.stores.store import Store
from trainer.errors import UserError

_SEED = 1
# How far a reservoir may grow beyond its size before it is cut back, which takes a sort.
_GROWTH = 1.25


def sample_corpora(data: DataConfig, max_pairs: int) -> tuple[Block, list[int]]:
    """About `max_pairs` filtered pairs, in the proportions of the mixture, and the number of raw pairs of each corpus.

    A corpus with fewer pairs than its share gives all of them; each corpus gives at least one. Memory holds about twice
    `max_pairs`. Raises UserError for text that cannot be read and for a corpus without a pair that passes the filters.
    """
    pair_filter = PairFilter(data.filters)
    reservoirs: list[_Reservoir] = []
    for number, corpus in enumerate(data.train):
        reservoirs.append(_Reservoir(max_pairs, stable_hash(_SEED, number), pair_filter))
        with show_progress(f"reading {corpus_name(corpus)} for the tokenizer") as advance:
            for block in read_pairs(corpus):
                reservoirs[-1].offer(block)
                advance(len(block[0]))
        if not reservoirs[-1].size:
            raise nothing_left(corpus, reservoirs[-1].rejected, data)
        weights = [corpus.weight for corpus in data.train[: number + 1]]
        shares = mixture_shares(weights, [reservoir.size for reservoir in reservoirs], data.temperature)
        for reservoir, share in zip(reservoirs, shares.tolist(), strict=True):
            reservoir.trim(_count(share, max_pairs))
    pairs = [pair for reservoir in reservoirs for pair in reservoir.pairs]
    return ([source for source, _ in pairs], [target for _, target in pairs]), [r.num_read for r in reservoirs]


def sample_stores(stores: Sequence[Store], data: DataConfig, max_pairs: int) -> Block:
    """Like `sample_corpora`, from text stores, which hold filtered text."""
    sizes = [store.manifest.num_pairs for store in stores]
    shares = mixture_shares([corpus.weight for corpus in data.train], sizes, data.temperature)
    sources: list[str] = []
    targets: list[str] = []
    for number, (store, size, share) in enumerate(zip(stores, sizes, shares.tolist(), strict=True)):
        draw_N = np.arange(min(size, _count(share, max_pairs)))
        row_N = np.sort(shuffled(np.zeros_like(draw_N), draw_N, [size], [stable_hash(_SEED, number)]).row_N)
        sources += [text.decode() for text in store.source.texts(row_N)]
        targets += [text.decode() for text in store.target.texts(row_N)]
    return sources, targets


def _count(share: float, max_pairs: int) -> int:
    return max(1, int(share * max_pairs))


def nothing_left(corpus: CorpusConfig, rejected: dict[str, int], data: DataConfig) -> UserError:
    """The error of a corpus without a pair to train on."""
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items()))
    return UserError(
        f"no pair of the corpus {corpus_place(corpus)} can be used: {counts} (`data.max_length` is {data.max_length} "
        "tokens): change `data.filters`, or leave the corpus out."
    )


class _Reservoir:
    """A random sample of the pairs of a corpus that pass the filters: those with the lowest numbers, in that order.

    A pair's number is a hash of its position, so pairs above the current limit skip the filters.
    """

    def __init__(self, capacity: int, key: int, pair_filter: PairFilter) -> None:
        self.num_read = 0
        self.rejected: Counter[str] = Counter()
        self._capacity, self._key, self._filter = capacity, np.uint64(key), pair_filter
        self._numbers: list[NDArray[np.uint64]] = []
        self._limit = np.uint64(2**64 - 1)
        self._num_judged = 0
        self.pairs: list[tuple[str, str]] = []

    @property
    def size(self) -> int:
        """How many pairs of the corpus pass the filters: exact if all were filtered, otherwise an estimate."""
        num_fit = self._num_judged - self.rejected.total()
        return round(self.num_read * num_fit / self._num_judged)

    def offer(self, block: Block) -> None:
        places_N = np.arange(self.num_read, self.num_read + len(block[0]), dtype=np.uint64)
        number_N = mix64(places_N ^ self._key)
        self.num_read += len(block[0])
        low = np.flatnonzero(number_N <= self._limit)
        sources, targets = ([side[n] for n in low.tolist()] for side in block)
        code_N = self._filter.judge(sources, targets)
        self._num_judged += len(code_N)
        for code in code_N[code_N > 0].tolist():
            self.rejected[REASONS[code]] += 1
        fit = np.flatnonzero(code_N == 0)
        self.pairs += [(sources[n], targets[n]) for n in fit.tolist()]
        self._numbers.append(number_N[low[fit]])
        if len(self.pairs) > _GROWTH * self._capacity:
            self.trim(self._capacity)

    def trim(self, count: int) -> None:
        """Keeps the pairs with the lowest `count` numbers."""
        numbers = np.concatenate(self._numbers)
        order = np.argsort(numbers)[:count]
        if len(order) < len(self.pairs):
            self._limit = numbers[order[-1]]
        self.pairs = [self.pairs[n] for n in order.tolist()]
        self._numbers = [numbers[order]]
