"""Parts put together, without their duplicates, into one store.

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
"""[source, target] of each pair, for examples."""


def deduplicate_and_write(
    parts: Sequence[PartFile], drop_duplicates: bool, text_of: TextOf, writer: StoreWriter
) -> Rejections:
    """Appends all parts to a store, in their order; what was left out, in them and now.

    Of equal pairs the first stays. Pairs are equal where their 64-bit hashes are: of n different pairs, about
    n² / 2^65 are taken for others by mistake, which is 0.0003 pairs of 100 million.
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
    """Counts and examples in the filters' order, of the reasons that occurred."""
    reasons = [reason for reason in REASONS if rejections.counts[reason]]
    return {r: rejections.counts[r] for r in reasons}, {r: rejections.examples[r] for r in reasons}


def find_repeats(read_hashes: Callable[[], Iterable[Hashes]], max_hashes: int = _MAX_HASHES) -> list[BoolArray]:
    """repeat_N for the hash_N of each part: whether the same hash came before, in it or in an earlier part.

    `read_hashes` reads all parts in order, each time it is called. Memory holds one byte a pair and twice
    `max_hashes` hashes (by default 270 MB), because the hashes are worked in ranges of about so many.
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
    """The different hashes of each part in one of 2^range_bits equal ranges of hashes, and where each is first.

    Made different within each part first, so that a pair that recurs everywhere does not fill its range.
    """
    for hash_N in parts:
        # In two steps, because a shift by all 64 bits is undefined.
        range_N = (hash_N >> np.uint64(1)) >> np.uint64(63 - range_bits)
        within = np.flatnonzero(range_N == number)
        different, place = np.unique(hash_N[within], return_index=True)
        yield different, within[place]


def _several(parts: Iterable[Hashes]) -> Hashes:
    """The hashes that occur in several parts, sorted, each once."""
    all_K = np.concatenate([np.empty(0, np.uint64), *parts])
    all_K.sort()
    return np.unique(all_K[1:][all_K[1:] == all_K[:-1]])


def _find(sorted_K: Hashes, hash_N: Hashes) -> tuple[BoolArray, NDArray[np.intp]]:
    """Which of the hashes are among the sorted ones, and their places there."""
    place_N = np.searchsorted(sorted_K, hash_N)
    is_found_N = place_N < len(sorted_K)
    is_found_N[is_found_N] = sorted_K[place_N[is_found_N]] == hash_N[is_found_N]
    return is_found_N, place_N[is_found_N]
