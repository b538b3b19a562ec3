"""Segmentations of a text drawn at random: subword regularisation (Kudo 2018) and BPE-dropout (Provilkov et al. 2020).

SentencePiece can sample as well, but its generator adds another salt to the seed in every process, so that a resumed
run or another worker would see other segmentations. These functions draw from Python's generator, which gives the same
numbers everywhere.
"""

import math
import random
import re
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal

Draw = Callable[[], float]
"""The next number of a generator, in [0, 1)."""

_SPACE = "▁"
# Longer text without a space is cut here, because the work grows with the square of a word's length.
_MAX_WORD = 64
# About 60 MB of lattices; the most frequent words make up most of a text.
_CACHED_WORDS = 1 << 14
_NEVER = -math.inf


@dataclass(frozen=True)
class Pieces:
    """The pieces of a SentencePiece model: id and score of the normal ones, the user's symbols, and the ids that spell
    other characters in bytes (`byte_ids`, None without byte fallback)."""

    id_of: dict[str, int]
    score_of: dict[str, float]
    symbol_ids: dict[str, int]
    byte_ids: list[int] | None
    unk_id: int

    def spell(self, text: str) -> list[int]:
        """The ids of a piece, or of text that is no piece: its bytes or the unknown piece."""
        if (piece_id := self.id_of.get(text)) is not None:
            return [piece_id]
        return [self.byte_ids[byte] for byte in text.encode()] if self.byte_ids else [self.unk_id]


class Segmenter:
    """Draws segmentations of normalised text, word by word, since no piece crosses the start of a word.

    Unigram: the probability of a segmentation is proportional to the product of its pieces' probabilities to the power
    `strength`. BPE: each possible merge is left out with probability `strength`. The user's symbols are words.
    """

    def __init__(self, kind: Literal["unigram", "bpe"], pieces: Pieces, strength: float) -> None:
        self._pieces, self.strength = pieces, strength
        self._draw_word = (_UnigramWords if kind == "unigram" else _BpeWords)(pieces, strength).draw
        self._words = _word_pattern(pieces)

    def draw(self, text: str, seed: int) -> list[int]:
        """The ids of a segmentation, a function of the text and the seed alone."""
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
    """Sums the weights of the segmentations of each prefix of a word, once; draws piece by piece from its end."""

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        self._spell, self._max_length = pieces.spell, max(map(len, pieces.id_of))
        self._log_weight_of = {piece: alpha * score for piece, score in pieces.score_of.items()}
        # The weight of a character that is no piece, with the library's penalty.
        self._unknown_log_weight = min(self._log_weight_of.values()) - alpha * 10.0
        self._lattice = lru_cache(_CACHED_WORDS)(self._make_lattice)

    def draw(self, word: str, draw: Draw) -> list[int]:
        lattice, end = self._lattice(word), len(word)
        drawn: list[list[int]] = []
        while end:
            bounds, starts = lattice[end]
            start = starts[bisect(bounds, draw())]
            drawn.append(self._spell(word[start:end]))
            end = start
        return [piece_id for ids in reversed(drawn) for piece_id in ids]

    def _make_lattice(self, word: str) -> list[tuple[list[float], list[int]]]:
        """For each position: cumulative probabilities of the pieces that may end there, and their starts."""
        log_mass = [0.0]
        lattice: list[tuple[list[float], list[int]]] = [([], [])]
        for end in range(1, len(word) + 1):
            starts, logs = self._ending_at(end, word, log_mass)
            highest = max(logs)
            sums = list(accumulate([math.exp(log - highest) for log in logs]))
            log_mass.append(highest + math.log(sums[-1]))
            # Without the last bound, which rounding might put below a draw.
            lattice.append(([total / sums[-1] for total in sums[:-1]], starts))
        return lattice

    def _ending_at(self, end: int, word: str, log_mass: list[float]) -> tuple[list[int], list[float]]:
        """Starts of the pieces that end at `end`, and the log-weight of all segmentations that finish with each."""
        starts, logs = [], []
        for start in range(max(0, end - self._max_length), end):
            log_weight = self._log_weight_of.get(word[start:end])
            if log_weight is None and start == end - 1:
                log_weight = self._unknown_log_weight
            if log_weight is not None:
                starts.append(start)
                logs.append(log_mass[start] + log_weight)
        return starts, logs


class _BpeWords:
    """Merges the neighbours with the best score first, of equal ones the left. A pair that a draw leaves out stays
    apart until one of the two is merged with its other neighbour."""

    def __init__(self, pieces: Pieces, dropout: float) -> None:
        self._spell, self._score_of, self._dropout = pieces.spell, pieces.score_of, dropout

    def draw(self, word: str, draw: Draw) -> list[int]:
        symbols = list(word)
        scores = [self._score(left, right) for left, right in pairwise(symbols)]
        while scores and (best := max(scores)) > _NEVER:
            at = scores.index(best)
            if draw() < self._dropout:
                scores[at] = _NEVER
                continue
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            del scores[at]
            if at > 0:
                scores[at - 1] = self._score(symbols[at - 1], symbols[at])
            if at < len(scores):
                scores[at] = self._score(symbols[at], symbols[at + 1])
        return [piece_id for symbol in symbols for piece_id in self._spell(symbol)]

    def _score(self, left: str, right: str) -> float:
        return self._score_of.get(left + right, _NEVER)
