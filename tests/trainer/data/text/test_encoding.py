"""Pairs are encoded alike in whatever blocks they come, and none is longer than allowed."""

import itertools
import pickle
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.data.config import TokenizerConfig
from trainer.data.text.encoding import EncodedPairs, PairEncoder
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import TokenizerPair, train_tokenizer

DRAW = random.Random(1)
WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrst", k=6)) for n in range(200)]
SOURCES = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(1, 8))) for _ in range(200)]
TARGETS = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(1, 8))) for _ in range(200)]
ENOUGH = 1000
SEED_N: NDArray[np.uint64] = np.random.default_rng(1).integers(0, 2**64, len(SOURCES), np.uint64)


@pytest.fixture(scope="module")
def tokenizers() -> TokenizerPair:
    source = train_tokenizer(iter(SOURCES), TokenizerConfig(vocab_size=300))
    return TokenizerPair(source, train_tokenizer(iter(TARGETS), TokenizerConfig(vocab_size=310, kind="bpe")))


def sentences(side: Side) -> list[list[int]]:
    return [part.tolist() for part in np.split(side.token_L, np.cumsum(side.length_N)[:-1])]


def pairs(encoded: EncodedPairs) -> list[tuple[list[int], list[int]]]:
    return list(zip(sentences(encoded.source), sentences(encoded.target), strict=True))


def test_each_side_is_encoded_by_its_own_tokenizer(tokenizers: TokenizerPair) -> None:
    encoded = PairEncoder(tokenizers, ENOUGH).encode(SOURCES, TARGETS)
    assert encoded.kept_N.all()
    assert sentences(encoded.source) == sentences(tokenizers.source.encode_side(SOURCES))
    assert sentences(encoded.target) == sentences(tokenizers.target.encode_side(TARGETS))


@pytest.mark.parametrize("sampling", [None, 0.2])
def test_only_pairs_within_the_limit_are_kept_in_order(tokenizers: TokenizerPair, sampling: float | None) -> None:
    limit = 24
    every = PairEncoder(tokenizers, ENOUGH).encode(SOURCES, TARGETS)
    fits = np.maximum(every.source.length_N, every.target.length_N) <= limit
    assert 20 < fits.sum() < 180
    encoded = PairEncoder(tokenizers, limit, sampling).encode(SOURCES, TARGETS, SEED_N)
    assert max(encoded.source.length_N.max(), encoded.target.length_N.max()) == limit
    assert not (fits & ~encoded.kept_N).any(), "sampling must lose no pair"
    kept = np.flatnonzero(encoded.kept_N)
    assert tokenizers.source.decode(sentences(encoded.source)) == [SOURCES[n] for n in kept]
    assert tokenizers.target.decode(sentences(encoded.target)) == [TARGETS[n] for n in kept]
    if sampling is None:
        assert (encoded.kept_N == fits).all()
        assert pairs(encoded) == [pair for pair, fit in zip(pairs(every), fits, strict=True) if fit]


def test_a_draw_that_is_too_long_gives_way_to_the_best_segmentation(tokenizers: TokenizerPair) -> None:
    limit = 24
    drawn = pairs(PairEncoder(tokenizers, ENOUGH, 0.2).encode(SOURCES, TARGETS, SEED_N))
    best = pairs(PairEncoder(tokenizers, ENOUGH).encode(SOURCES, TARGETS))
    encoded = PairEncoder(tokenizers, limit, 0.2).encode(SOURCES, TARGETS, SEED_N)
    expected = [
        tuple(d if len(d) <= limit else b for d, b in zip(drawn[n], best[n], strict=True))
        for n in np.flatnonzero(encoded.kept_N)
    ]
    assert pairs(encoded) == expected
    assert sum(pair == tuple(d) for pair, d in zip(expected, drawn, strict=False)) < len(expected)


@pytest.mark.parametrize("sampling", [None, 0.2])
def test_blocks_text_types_and_processes_do_not_matter(tokenizers: TokenizerPair, sampling: float | None) -> None:
    encoder = PairEncoder(tokenizers, 20, sampling)
    whole = encoder.encode(SOURCES, TARGETS, SEED_N)
    copy: PairEncoder = pickle.loads(pickle.dumps(encoder))
    starts = [0, 1, 7, 60, 61, 150, 200]
    blocks = [
        copy.encode([s.encode() for s in SOURCES[a:b]], [t.encode() for t in TARGETS[a:b]], SEED_N[a:b])
        for a, b in itertools.pairwise(starts)
    ]
    assert [pair for block in blocks if block.kept_N.any() for pair in pairs(block)] == pairs(whole)
    assert (np.concatenate([block.kept_N for block in blocks]) == whole.kept_N).all()


def test_the_two_sides_of_a_pair_are_drawn_apart(tokenizers: TokenizerPair) -> None:
    encoder = PairEncoder(TokenizerPair(tokenizers.source, tokenizers.source), ENOUGH, 0.1)
    copied = pairs(encoder.encode(SOURCES, SOURCES, SEED_N))
    assert sum(source != target for source, target in copied) > 100


def test_other_seeds_segment_other_ways(tokenizers: TokenizerPair) -> None:
    encoder = PairEncoder(tokenizers, ENOUGH, 0.1)
    first, second = (pairs(encoder.encode(SOURCES, TARGETS, SEED_N + np.uint64(step))) for step in (0, 1))
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 150


def test_no_pairs_are_no_trouble(tokenizers: TokenizerPair) -> None:
    for sources, limit in (([], ENOUGH), (SOURCES, 1)):
        encoded = PairEncoder(tokenizers, limit).encode(sources, TARGETS[: len(sources)])
        assert (len(encoded.source.token_L), len(encoded.target.length_N)) == (0, 0)
        assert len(encoded.kept_N) == len(sources)
