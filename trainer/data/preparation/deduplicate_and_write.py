"""Joins the parts of a corpus into one store, without duplicates.

Shape suffixes: N pairs of a part, K hashes of many parts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.preparation.filters import REASONS
from trainer.data.preparation.raw_parts import NUM_EXAMPLES, PartFile, Rejections
from trainer.data.stores.store import StoreWriter
from trainer.data.text.sentences import Side, chosen

_MAX_HASHES = 1 << 24

Hashes = NDArray[np.uint64]
BoolArray = NDArray[np.bool_]
TextOf = Callable[[Side, Side], list[list[str]]]
"""Returns [source, target] of each pair, for examples."""


def deduplicate_and_write(
    parts: Sequence[PartFile], drop_duplicates: bool, text_of: TextOf, writer: StoreWriter
) -> Rejections:
    """Appends all parts to a store, in order. Returns what was left out, by the parts and here.

    Of equal pairs the first is kept. Pairs count as equal if their 64-bit hashes are: of n different pairs, about
    n² / 2^65 are mistaken for others, which is 0.0003 pairs of 100 million.
    """
    rejections = Rejections.none()
    repeats = find_repeats(lambda: (part.hashes() for part in parts)) if drop_duplicates else []
    for number, part in enumerate(parts):
        sides: tuple[Side, ...] = part.sides()
        rejections.add_all(part.rejections())
        if drop_duplicates and (repeat_N := repeats[number]).any():
            shown = (chosen(side, np.flatnonzero(repeat_N)[:NUM_EXAMPLES]) for side in sides)
            rejections.add("duplicate", int(repeat_N.sum()), text_of(*shown))
            sides = tuple(chosen(side, np.flatnonzero(~repeat_N)) for side in sides)
        writer.append(*sides)
    return rejections


def counts_by_reason(rejections: Rejections) -> tuple[dict[str, int], dict[str, list[list[str]]]]:
    """Counts and examples of the reasons that occurred, in the order of the filters."""
    reasons = [reason for reason in REASONS if rejections.counts[reason]]
    return {r: rejections.counts[r] for r in reasons}, {r: rejections.examples[r] for r in reasons}


def find_repeats(read_hashes: Callable[[], Iterable[Hashes]], max_hashes: int = _MAX_HASHES) -> list[BoolArray]:
    """repeat_N for the hash_N of each part: true if the same hash occurs before, in the part or in an earlier one.

    `read_hashes` reads all parts in order, each time it is called. Takes memory for one byte per pair and for twice
    `max_hashes` hashes (by default 270 MB), because the hashes are handled in ranges of about `max_hashes`.
    """
    repeats = [np.ones(len(hash_N), np.bool_) for hash_N in read_hashes()]
    num_hashes = sum(map(len, repeats))
    range_bits = max(0, (num_hashes - 1) // max_hashes).bit_length()
    for number in range(1 << range_bits):
        several_K = _several(hash_N for hash_N, _ in _first_ones(read_hashes(), number, range_bits))
        is_new_K = np.ones(len(several_K), np.bool_)
        for repeat_N, (hash_N, place_N) in zip(repeats, _first_ones(read_hashes(), number, range_bits), strict=True):
            is_several_N, places = _find(several_K, hash_N)
            is_first_N = ~is_several_N
            is_first_N[is_several_N] = is_new_K[places]
            is_new_K[places] = False
            repeat_N[place_N[is_first_N]] = False
    return repeats


def _first_ones(parts: Iterable[Hashes], number: int, range_bits: int) -> Iterator[tuple[Hashes, NDArray[np.intp]]]:
    """The distinct hashes of each part within range `number` of 2^range_bits, and the first position of each.

    Only distinct ones, so that a pair that recurs everywhere does not fill its range.
    """
    for hash_N in parts:
        # In two steps, because a shift by all 64 bits is undefined.
        range_N = (hash_N >> np.uint64(1)) >> np.uint64(63 - range_bits)
        within = np.flatnonzero(range_N == number)
        distinct, place = np.unique(hash_N[within], return_index=True)
        yield distinct, within[place]


def _several(parts: Iterable[Hashes]) -> Hashes:
    """The hashes that occur in more than one part, sorted, each once."""
    all_K = np.concatenate([np.empty(0, np.uint64), *parts])
    all_K.sort()
    return np.unique(all_K[1:][all_K[1:] == all_K[:-1]])


def _find(sorted_K: Hashes, hash_N: Hashes) -> tuple[BoolArray, NDArray[np.intp]]:
    """Which of the hashes are among the sorted ones, and their positions there."""
    place_N = np.searchsorted(sorted_K, hash_N)
    is_found_N = place_N < len(sorted_K)
    is_found_N[is_found_N] = sorted_K[place_N[is_found_N]] == hash_N[is_found_N]
    return is_found_N, place_N[is_found_N]
