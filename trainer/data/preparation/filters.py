"""The filters that decide by its text whether a pair is used for training.

Shape suffixes: N pairs, C characters of one side of all of them.
"""

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import FilterConfig
from trainer.data.preparation.language_id import identify, load_identifier
from trainer.data.text.sentences import IntArray

REASONS = (
    "",
    "empty source",
    "empty target",
    "length ratio",
    "copy",
    "few letters",
    "wrong language",
    "too long",
    "duplicate",
)
"""Why a pair is left out, in the order of the filters: the first that rejects it counts. Index 0 means kept.

`PairFilter` returns all but the last two, which need the tokens and the earlier pairs.
"""

BoolArray = NDArray[np.bool_]

# Added to both lengths before they are compared: "Ja." may well mean "Yes, of course.", but not ten times as much.
_RATIO_MARGIN = 10
_INVISIBLE, _OTHER, _LETTER = range(3)
# Marks, letters and symbols that show nothing: Unicode's Default_Ignorable_Code_Point, and the empty braille pattern.
_IGNORABLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),  # Hangul fillers, also 0x3164 and 0xFFA0
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2060, 0x206F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)


class PairFilter:
    """The filters of `data.filters` that look at the text of one pair. Can be pickled.

    Raises UserError if the language identifier cannot be loaded.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        if config.language_id is not None:
            load_identifier(config.language_id)

    def judge(self, sources: Sequence[str], targets: Sequence[str]) -> NDArray[np.uint8]:
        """code_N: for each pair the index into `REASONS` of the first filter that rejects it, or 0.

        Each code depends on its pair alone. Raises UserError if the language identifier fails.
        """
        assert len(sources) == len(targets), "aligned text"
        code_N = np.zeros(len(sources), np.uint8)
        for reason, rejected_N in self._by_characters(sources, targets):
            code_N[rejected_N & (code_N == 0)] = REASONS.index(reason)
        self._judge_languages(code_N, sources, targets)
        return code_N

    def _by_characters(self, sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, BoolArray]]:
        config, source, target = self._config, _count(sources), _count(targets)
        if config.empty:
            yield "empty source", source.visible_N == 0
            yield "empty target", target.visible_N == 0
        if config.max_length_ratio is not None:
            lengths = source.all_N + _RATIO_MARGIN, target.all_N + _RATIO_MARGIN
            yield "length ratio", np.maximum(*lengths) > config.max_length_ratio * np.minimum(*lengths)
        if config.copies:
            equal = (s.strip() == t.strip() for s, t in zip(sources, targets, strict=True))
            yield "copy", np.fromiter(equal, np.bool_, len(sources))
        if config.min_letters is not None:
            # A side without text has no share of letters; the first filter decides about it.
            yield "few letters", source.lacks_letters(config.min_letters) | target.lacks_letters(config.min_letters)

    def _judge_languages(self, code_N: NDArray[np.uint8], sources: Sequence[str], targets: Sequence[str]) -> None:
        """Identifies only pairs that passed all other filters, as identifiers are slow and some fail on empty text."""
        address, languages = self._config.language_id, self._config.languages
        if address is None or languages is None:
            return
        for texts, language in zip((sources, targets), languages, strict=True):
            asked_N = np.flatnonzero(code_N == 0)
            found = identify(address, [texts[n] for n in asked_N.tolist()])
            is_other_N = np.fromiter((code != language for code in found), np.bool_, len(found))
            code_N[asked_N[is_other_N]] = REASONS.index("wrong language")


@dataclass(frozen=True)
class _Counts:
    """Numbers of characters of each of N texts: all, visible ones, and letters."""

    all_N: IntArray
    visible_N: IntArray
    letters_N: IntArray

    def lacks_letters(self, min_letters: float) -> BoolArray:
        return self.letters_N < min_letters * self.visible_N


def _count(texts: Sequence[str]) -> _Counts:
    length_N = np.fromiter(map(len, texts), np.int64, len(texts))
    # JSON can put half a surrogate pair into a text; it counts like any other character.
    code_points_C = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    kind_C = _character_kinds()[code_points_C]
    return _Counts(length_N, _sums(kind_C != _INVISIBLE, length_N), _sums(kind_C == _LETTER, length_N))


def _sums(flag_C: BoolArray, length_N: IntArray) -> IntArray:
    """How many flags of each text are set."""
    sum_N = np.zeros_like(length_N)
    # reduceat returns the first element of an empty range, so empty texts are left out.
    is_filled_N = length_N > 0
    if is_filled_N.any():
        start_N = (np.cumsum(length_N) - length_N)[is_filled_N]
        sum_N[is_filled_N] = np.add.reduceat(flag_C, start_N, dtype=np.int64)
    return sum_N


@functools.cache
def _character_kinds() -> NDArray[np.uint8]:
    """kind_C: the kind of every code point, by its category in Unicode.

    Marks count as letters, because the vowel signs of Indic scripts are marks. Control and format characters (such as
    the zero-width joiners of Persian and Hindi) are as invisible as white space, and so are those of `_IGNORABLE`.
    """
    categories = "".join(map(unicodedata.category, map(chr, range(sys.maxunicode + 1))))
    kind_C = np.full(sys.maxunicode + 1, _OTHER, np.uint8)
    pair_C2 = np.frombuffer(categories.encode("ascii"), "S1").reshape(-1, 2)
    kind_C[np.isin(pair_C2[:, 0], (b"L", b"M"))] = _LETTER
    is_control = (pair_C2[:, 0] == b"C") & np.isin(pair_C2[:, 1], (b"c", b"f"))
    kind_C[(pair_C2[:, 0] == b"Z") | is_control] = _INVISIBLE
    for first, last in _IGNORABLE:
        kind_C[first : last + 1] = _INVISIBLE
    return kind_C
