"""Drawn segmentations: probabilities worked out by hand, and texts that no vocabulary foresaw."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from trainer.data.text.segmentation import Pieces, Segmenter

SCORES = {"▁": -3.0, "a": -3.0, "b": -4.0, "ab": -2.0, "▁a": -2.5, "▁ab": -1.5, "ba": -2.2}
PIECES = Pieces(
    id_of={piece: 10 + n for n, piece in enumerate(SCORES)},
    score_of=SCORES,
    symbol_ids={"<ab>": 5, "<a": 6},
    byte_ids=list(range(1000, 1256)),
    unk_id=1,
)
TEXT_OF = {n: piece for pieces in (PIECES.id_of, PIECES.symbol_ids) for piece, n in pieces.items()}
KINDS = [("unigram", 0.1), ("unigram", 1.0), ("bpe", 0.1), ("bpe", 0.6)]


def text_of(ids: list[int]) -> str:
    return b"".join(bytes([n - 1000]) if n >= 1000 else TEXT_OF[n].encode() for n in ids).decode()


def drawn(kind: Any, strength: float, text: str, count: int, pieces: Pieces = PIECES) -> list[tuple[int, ...]]:
    segmenter = Segmenter(kind, pieces, strength)
    return [tuple(segmenter.draw(text, seed)) for seed in range(count)]


def all_segmentations(text: str) -> list[tuple[str, ...]]:
    cuts = (itertools.compress(range(1, len(text)), keep) for keep in itertools.product([0, 1], repeat=len(text) - 1))
    every = [tuple(text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])) for places in cuts]
    return [pieces for pieces in every if all(piece in SCORES for piece in pieces)]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_unigram_segmentations_come_as_often_as_they_should(alpha: float) -> None:
    count, text = 20_000, "▁abab"
    weights = {pieces: math.exp(alpha * sum(SCORES[p] for p in pieces)) for pieces in all_segmentations(text)}
    found = Counter(tuple(TEXT_OF[n] for n in ids) for ids in drawn("unigram", alpha, text, count))
    assert len(weights) > 8
    assert found.keys() <= weights.keys()
    for pieces, weight in weights.items():
        share = weight / sum(weights.values())
        assert found[pieces] / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


def test_bpe_merges_are_left_out_as_often_as_they_should() -> None:
    """`▁ab`: ab is the best merge, then ▁ab; without ab, ▁a is next, and then ▁ab again."""
    count, dropout = 20_000, 0.3
    kept = 1 - dropout
    expected = {
        ("▁ab",): kept * kept + dropout * kept * kept,
        ("▁", "ab"): kept * dropout,
        ("▁a", "b"): dropout * kept * dropout,
        ("▁", "a", "b"): dropout * dropout,
    }
    assert sum(expected.values()) == pytest.approx(1.0)
    found = Counter(tuple(TEXT_OF[n] for n in ids) for ids in drawn("bpe", dropout, "▁ab", count))
    assert found.keys() == expected.keys()
    for pieces, share in expected.items():
        assert found[pieces] / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize(("kind", "strength"), KINDS)
@pytest.mark.parametrize("text", ["", "▁ab▁aab▁b", "▁☃a", "日本", "<ab><a<ab>▁<", "▁ab" * 500, "ab" * 500, "x\ny\0z"])
def test_every_drawn_segmentation_spells_the_text(kind: Any, strength: float, text: str) -> None:
    assert {text_of(list(ids)) for ids in drawn(kind, strength, text, 20)} == {text}


@pytest.mark.parametrize(("kind", "strength"), KINDS)
def test_symbols_stay_whole_the_longest_first(kind: Any, strength: float) -> None:
    for ids in drawn(kind, strength, "▁b<ab>b<ab", 50):
        assert [n for n in ids if n in (5, 6)] == [5, 6]


@pytest.mark.parametrize(("kind", "strength"), KINDS)
def test_without_byte_fallback_neighbouring_unknowns_are_one(kind: Any, strength: float) -> None:
    pieces = Pieces(PIECES.id_of, SCORES, {}, None, unk_id=1)
    for ids in drawn(kind, strength, "▁ax☃☃a☃", 20, pieces):
        assert [n for n in ids if n == 1] == [1, 1]


def test_pieces_that_hold_a_space_are_drawn_too() -> None:
    scores = SCORES | {"b▁a": -1.0}
    pieces = Pieces({piece: 10 + n for n, piece in enumerate(scores)}, scores, {}, None, unk_id=1)
    space = pieces.id_of["b▁a"]
    for kind in ("unigram", "bpe"):
        assert any(space in ids for ids in drawn(kind, 0.4, "▁ab▁ab", 200, pieces))


def test_a_draw_is_the_same_everywhere_and_for_ever() -> None:
    """Numbers written down once: a resumed run must not see other segmentations after an upgrade."""
    assert drawn("unigram", 0.5, "▁ab▁abab", 3) == [(10, 13, 15, 13), (15, 15, 13), (10, 11, 12, 10, 13, 13)]
    assert drawn("bpe", 0.3, "▁ab▁abab", 3) == [(15, 10, 13, 13), (15, 15, 13), (15, 14, 16, 12)]
