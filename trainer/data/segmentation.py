"""Segmentations of a text drawn at random: subword regularisation (Kudo 2018) and BPE-dropout (Provilkov et al. 2020).

SentencePiece samples too, but its generator adds a salt of its own to the seed in every process, so that a resumed run
or another worker would see other segmentations. These draw from Python's generator, whose numbers are promised to be
the same everywhere.
"""

import math
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

Draw = Callable[[], float]
"""The next number of a generator, in [0, 1)."""

_SPACE = "▁"
# A longer run of characters without a place to cut is cut anyway, because the work grows with the square of it.
_MAX_WORD = 64
_CACHED = 1 << 16


@dataclass(frozen=True)
class Pieces:
    """What a SentencePiece model knows of its pieces: id and score of the normal ones, the user's symbols, and how
    other characters are spelled (`byte_ids` is None without byte fallback)."""

    id_of: dict[str, int]
    score_of: dict[str, float]
    symbol_ids: dict[str, int]
    byte_ids: list[int] | None
    unk_id: int

    def spell(self, text: str) -> list[int]:
        """The ids of a piece, or of what is none."""
        if text in self.id_of:
            return [self.id_of[text]]
        return [self.byte_ids[byte] for byte in text.encode()] if self.byte_ids else [self.unk_id]


class Segmenter:
    """Draws segmentations of normalised text, word by word, as no piece reaches over the start of a word.

    Unigram: a segmentation's probability is proportional to that of its pieces to the power `strength`. BPE: each
    possible merge is left out with probability `strength`. The user's symbols are words.
    """

    def __init__(self, kind: Literal["unigram", "bpe"], pieces: Pieces, strength: float) -> None:
        self._pieces, self.strength = pieces, strength
        self._draw_word = (_UnigramWords if kind == "unigram" else _BpeWords)(pieces, strength).draw
        self._words = _word_pattern(pieces)

    def draw(self, text: str, seed: int) -> list[int]:
        """Ids of a segmentation, which depends on the text and the seed alone."""
        draw = random.Random(seed).random
        ids: list[int] = []
        for word in self._words.findall(text):
            symbol = self._pieces.symbol_ids.get(word)
            for piece_id in self._draw_word(word, draw) if symbol is None else [symbol]:
                if piece_id != self._pieces.unk_id or ids[-1:] != [piece_id]:  # the library writes one unk for several
                    ids.append(piece_id)
        return ids


def _word_pattern(pieces: Pieces) -> re.Pattern[str]:
    symbols = [re.escape(symbol) for symbol in sorted(pieces.symbol_ids, key=len, reverse=True)]
    crosses_words = any(_SPACE in piece[1:] for piece in pieces.id_of)
    later = "." if crosses_words else f"[^{_SPACE}]"
    ahead = f"(?!{'|'.join(symbols)})" if symbols else ""
    word = f".(?:{ahead}{later}){{0,{_MAX_WORD - 1}}}"
    return re.compile("|".join([*symbols, word]), re.DOTALL)


class _UnigramWords:
    """Sums up the segmentations of each beginning of a word, once, and draws piece by piece from its end."""

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        self._pieces, self._alpha = pieces, alpha
        self._max_length = max(map(len, pieces.id_of))
        self._unknown_score = min(pieces.score_of.values()) - 10.0  # the library's penalty
        self._lattice = lru_cache(_CACHED)(self._make_lattice)

    def draw(self, word: str, draw: Draw) -> list[int]:
        lattice, end = self._lattice(word), len(word)
        drawn: list[list[int]] = []
        while end:
            bounds, starts, ids = lattice[end]
            choice = bisect(bounds, draw())
            end = starts[choice]
            drawn.append(ids[choice])
        return [piece_id for ids in reversed(drawn) for piece_id in ids]

    def _make_lattice(self, word: str) -> list[tuple[list[float], list[int], list[list[int]]]]:
        """For each place, of the pieces that may end there: bounds of their shares, starts and ids."""
        log_mass = [0.0]
        lattice: list[tuple[list[float], list[int], list[list[int]]]] = [([], [], [])]
        for end in range(1, len(word) + 1):
            found = list(self._ending_at(word, end))
            logs = [log_mass[start] + self._alpha * score for start, score in found]
            highest = max(logs)
            weights = [math.exp(log - highest) for log in logs]
            total = sum(weights)
            log_mass.append(highest + math.log(total))
            # Without the last bound, which rounding might put below a draw.
            bounds = list(accumulate(weight / total for weight in weights))[:-1]
            starts = [start for start, _ in found]
            lattice.append((bounds, starts, [self._pieces.spell(word[start:end]) for start in starts]))
        return lattice

    def _ending_at(self, word: str, end: int) -> Iterator[tuple[int, float]]:
        """(start, score) of each piece; a character that is none counts as unknown."""
        for start in range(max(0, end - self._max_length), end):
            score = self._pieces.score_of.get(word[start:end])
            if score is not None:
                yield start, score
            elif start == end - 1:
                yield start, self._unknown_score


_Merging = tuple[tuple[str, ...], tuple[bool, ...]]
"""The symbols of a word so far, and which neighbours may still be merged."""


class _BpeWords:
    """Merges the neighbours with the best score first, the left ones where equal; what a draw leaves out stays apart
    until one of the two is merged with its other neighbour."""

    def __init__(self, pieces: Pieces, dropout: float) -> None:
        self._pieces, self._dropout = pieces, dropout
        self._next = lru_cache(_CACHED)(self._find_next)

    def draw(self, word: str, draw: Draw) -> list[int]:
        merging: _Merging = (tuple(word), (True,) * (len(word) - 1))
        while (following := self._next(merging)) is not None:
            merging = following[draw() < self._dropout]
        return [piece_id for symbol in merging[0] for piece_id in self._pieces.spell(symbol)]

    def _find_next(self, merging: _Merging) -> tuple[_Merging, _Merging] | None:
        """What becomes of the word where its next merge is made, and where it is left out; None at the end."""
        symbols, may_merge = merging
        scores = [
            self._pieces.score_of.get(left + right, -math.inf) if allowed else -math.inf
            for left, right, allowed in zip(symbols, symbols[1:], may_merge, strict=False)
        ]
        if max(scores, default=-math.inf) == -math.inf:
            return None
        at = scores.index(max(scores))
        merged = (*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :])
        before, after = may_merge[:at], may_merge[at + 1 :]
        allowed = (*before[:-1], *(True for _ in before[-1:]), *(True for _ in after[:1]), *after[1:])
        return (merged, allowed), (symbols, (*before, False, *after))
