from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.data.config import FilterConfig
from trainer.data.preparation.deduplicate_and_write import counts_by_reason, deduplicate_and_write, find_repeats
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.raw_parts import PartFile, PartMaker
from trainer.data.stores.store import TEXT_DTYPE, Store, writing_store
from trainer.data.text.sentences import Side

SOURCES = [["a", "b", "a"], ["c"], [], ["b", "d", "a"]]
TARGETS = [["A", "B", "A"], ["C"], [], ["B", "D", "other"]]


def naive_repeats(parts: list[NDArray[np.uint64]]) -> list[list[bool]]:
    seen: set[int] = set()
    repeats: list[list[bool]] = []
    for part in parts:
        repeats.append([])
        for value in part.tolist():
            repeats[-1].append(value in seen)
            seen.add(value)
    return repeats


@pytest.mark.parametrize("max_hashes", [3, 100, 10_000])
@pytest.mark.parametrize("num_different", [5, 1500, 1 << 60])
def test_repeats_are_the_same_however_the_hashes_are_divided(max_hashes: int, num_different: int) -> None:
    draw = np.random.default_rng(num_different)
    ends = np.array([0, (1 << 64) - 1], np.uint64)
    different = np.append(draw.integers(0, 1 << 64, 5000, np.uint64, endpoint=False), ends)
    parts = [different[draw.integers(0, min(num_different, len(different)), size)] for size in (700, 0, 1, 900)]
    parts[0][:2] = parts[3][:2] = (0, (1 << 64) - 1)
    found = find_repeats(lambda: parts, max_hashes)
    assert [repeat_N.tolist() for repeat_N in found] == naive_repeats(parts)


def test_nothing_has_no_repeats() -> None:
    assert find_repeats(list) == []
    assert [repeat_N.tolist() for repeat_N in find_repeats(lambda: [np.zeros(0, np.uint64)])] == [[]]


@pytest.fixture
def parts(tmp_path: Path) -> list[PartFile]:
    maker = PartMaker(PairFilter(FilterConfig(copies=False)), None, TEXT_DTYPE)
    files = [PartFile(tmp_path / f"{number}.npz") for number in range(len(SOURCES))]
    for file, sources, targets in zip(files, SOURCES, TARGETS, strict=True):
        file.write(maker.make(sources, targets), TEXT_DTYPE)
    return files


def texts(source: Side, target: Side) -> list[list[str]]:
    sides = (side.token_L.tobytes().decode() for side in (source, target))
    return [list(pair) for pair in zip(*sides, strict=True)]


@pytest.mark.parametrize("drop_duplicates", [True, False])
def test_the_first_of_equal_pairs_stays(parts: list[PartFile], tmp_path: Path, drop_duplicates: bool) -> None:
    with writing_store(tmp_path / "store", TEXT_DTYPE) as writer:
        rejected, examples = counts_by_reason(deduplicate_and_write(parts, drop_duplicates, texts, writer))
        writer.finish("name", "fingerprint", rejected, examples)
    store = Store.open(tmp_path / "store")
    assert store is not None
    found = [table.texts(np.arange(store.manifest.num_pairs)) for table in (store.source, store.target)]
    if drop_duplicates:
        assert found == [[b"a", b"b", b"c", b"d", b"a"], [b"A", b"B", b"C", b"D", b"other"]]
        assert store.manifest.rejected == {"duplicate": 2}
        assert store.manifest.examples == {"duplicate": [["a", "A"], ["b", "B"]]}
    else:
        assert found[0] == [text.encode() for part in SOURCES for text in part]
        assert store.manifest.rejected == {}
