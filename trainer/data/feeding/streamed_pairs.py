"""Pairs from text stores, tokenised on the fly in worker processes: `data.mode: stream`.

Shape suffixes: N pairs asked for, C corpora.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer.data.feeding.budget import ceil_div
from trainer.data.feeding.lane_reader import Pending
from trainer.data.order.lanes import Order
from trainer.data.order.seeds import sampling_seeds
from trainer.data.order.shuffling import Draws
from trainer.data.stores.store import Store, Table, read_ahead
from trainer.data.stores.text_lengths import all_too_long, measured_rows
from trainer.data.text.encoding import EncodedPairs, PairEncoder
from trainer.data.text.sentences import IntArray
from trainer.data.worker_processes import explaining_death, worker_pool


class TextReader:
    """Reads pairs from the text stores of the corpora and encodes them; picklable."""

    def __init__(self, stores: Sequence[Store], encoder: PairEncoder) -> None:
        self._stores, self._encoder = tuple(stores), encoder

    def __call__(self, corpus_N: IntArray, row_N: IntArray, seed_N: NDArray[np.uint64]) -> EncodedPairs:
        sources = _texts([store.source for store in self._stores], corpus_N, row_N)
        targets = _texts([store.target for store in self._stores], corpus_N, row_N)
        return self._encoder.encode(sources, targets, seed_N)


def _texts(tables: Sequence[Table], corpus_N: IntArray, row_N: IntArray) -> list[bytes]:
    texts = [b""] * len(row_N)
    for corpus in np.unique(corpus_N).tolist():
        place_N = np.flatnonzero(corpus_N == corpus)
        for place, text in zip(place_N.tolist(), tables[corpus].texts(row_N[place_N]), strict=True):
            texts[place] = text
    return texts


class StreamedPairs:
    """A pair source (`lane_reader.PairSource`) over the text stores of the corpora.

    Its `num_workers` processes start at once and tokenise requests in order; with 0, this process tokenises a request
    when its pairs are waited for.
    """

    # Some tens of milliseconds of work: the first pairs of a run come soon, and sending them costs little against it.
    chunk_pairs = 512

    def __init__(self, stores: Sequence[Store], encoder: PairEncoder, order: Order, num_workers: int) -> None:
        read_ahead(stores)
        self._manifests = [store.manifest for store in stores]
        self._order, self._num_workers = order, num_workers
        self._read = TextReader(stores, encoder)
        self._pool = worker_pool(num_workers, _start_worker, (self._read,)) if num_workers else None

    def request(self, draws: Draws) -> Pending:
        arguments = draws.corpus_N, draws.row_N, sampling_seeds(self._order.seed, len(self._manifests), draws)
        if self._pool is None:
            return partial(self._read, *arguments)
        with _explaining_death():
            return partial(_result, self._pool.submit(_work, *arguments))

    def chunks_ahead(self, num_lanes: int, num_pairs: int) -> int:
        """One micro-batch per lane, or more if there are so few lanes that workers would wait for requests."""
        if self._pool is None:
            return 0
        # One more, because a lane's first chunk is small: the first micro-batch must not wait for all lanes.
        return 1 + max(ceil_div(num_pairs, self.chunk_pairs), ceil_div(4 * self._num_workers, num_lanes))

    def mean_lengths(self) -> NDArray[np.float64]:
        """Of some thousand pairs, spread evenly over each corpus: the same on all ranks and after each resume.

        Raises UserError if the measured pairs of a corpus are all too long.
        """
        shares = self._order.shares.tolist()
        rows = [measured_rows(m.num_pairs, share) for m, share in zip(self._manifests, shares, strict=True)]
        row_N, num_C = np.concatenate(rows), np.array([len(row_N) for row_N in rows])
        draws = Draws(np.repeat(np.arange(len(rows)), num_C), row_N, np.zeros_like(row_N))
        parts = [draws.part(first, first + self.chunk_pairs) for first in range(0, len(draws), self.chunk_pairs)]
        # All are requested first, so that the workers divide them among themselves.
        pending = [self.request(part) for part in parts]
        amounts = [self._amounts(part, wait()) for part, wait in zip(parts, pending, strict=True)]
        kept_C, *tokens_2C = np.sum(amounts, axis=0)
        if not kept_C.all():
            corpus = int(np.argmin(kept_C))
            raise all_too_long(corpus, self._manifests[corpus].name, int(num_C[corpus]))
        means: NDArray[np.float64] = np.array(tokens_2C).T / kept_C[:, None]
        return means

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _amounts(self, draws: Draws, encoded: EncodedPairs) -> IntArray:
        """amounts_3C: how many pairs of each corpus are short enough, and their tokens on both sides."""
        corpus_N, count = draws.corpus_N[encoded.kept_N], partial(np.bincount, minlength=len(self._manifests))
        lengths = encoded.source.length_N, encoded.target.length_N
        return np.array([count(corpus_N), *(count(corpus_N, length_N) for length_N in lengths)], np.int64)


def _explaining_death() -> AbstractContextManager[None]:
    return explaining_death("tokenises the training data")


def _result(future: Future[EncodedPairs]) -> EncodedPairs:
    with _explaining_death():
        return future.result()


_reader: TextReader


def _start_worker(reader: TextReader) -> None:
    global _reader
    _reader = reader


def _work(corpus_N: IntArray, row_N: IntArray, seed_N: NDArray[np.uint64]) -> EncodedPairs:
    return _reader(corpus_N, row_N, seed_N)
