import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.stores import store as store_module
from trainer.data.stores.store import TEXT_DTYPE, Store, read_ahead, token_dtype, writing_store
from trainer.data.text.sentences import Side, token_index

SOURCES = [[5, 6, 3], [7, 3], [8, 9, 10, 3]]
TARGETS = [[11, 3], [12, 13, 14, 3], [15, 3]]


def side(sentences: list[list[int]]) -> Side:
    return Side(np.array([x for s in sentences for x in s]), np.array([len(s) for s in sentences], np.int64))


def write(directory: Path, dtype: str = "uint16", then: Exception | None = None) -> None:
    with writing_store(directory, dtype) as writer:
        for rows in (slice(0, 2), slice(0, 0), slice(2, 3)):
            writer.append(side(SOURCES[rows]), side(TARGETS[rows]))
        writer.finish("name", "fingerprint", {"too long": 4}, {"too long": [["a", "b"]]})
        if then:
            raise then


def opened(directory: Path) -> Store:
    store = Store.open(directory)
    assert store is not None
    return store


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_what_is_written_is_read(tmp_path: Path, vocab_size: int, dtype: Any) -> None:
    write(tmp_path / "store", token_dtype(vocab_size))
    store = opened(tmp_path / "store")
    row_N = np.array([2, 0, 1, 2])
    for table, sentences in ((store.source, SOURCES), (store.target, TARGETS)):
        found = table.gather(row_N)
        assert found.token_L.dtype == dtype
        assert found.token_L.tolist() == [t for n in row_N for t in sentences[n]]
        assert found.length_N.tolist() == table.lengths(row_N).tolist() == [len(sentences[n]) for n in row_N]
    manifest = store.manifest
    assert manifest.kind == "tokens"
    assert (manifest.num_pairs, manifest.num_source_items, manifest.num_target_items) == (3, 9, 8)
    assert (manifest.rejected, manifest.examples) == ({"too long": 4}, {"too long": [["a", "b"]]})


def test_text_is_read_as_it_was_written_empty_sides_too(tmp_path: Path) -> None:
    lines = ["Grüße", "", "\u2028 x"]
    with writing_store(tmp_path / "store", TEXT_DTYPE) as writer:
        writer.append(side([list(line.encode()) for line in lines]), side([[], [], []]))
        writer.finish("name", "fingerprint", {}, {})
    store = opened(tmp_path / "store")
    assert store.manifest.kind == "text"
    assert store.source.texts(np.array([2, 1, 0])) == [line.encode() for line in reversed(lines)]
    assert store.target.texts(np.arange(3)) == [b"", b"", b""]


def test_a_store_reaches_another_process_by_its_directory(tmp_path: Path) -> None:
    write(tmp_path / "store")
    pickled = pickle.dumps(opened(tmp_path / "store"))
    assert len(pickled) < 1000
    assert pickle.loads(pickled).source.items.tolist() == [t for s in SOURCES for t in s]


def test_token_index_names_every_place() -> None:
    assert token_index(np.array([10, 0, 5]), np.array([2, 0, 3])).tolist() == [10, 11, 5, 6, 7]
    assert token_index(np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_equal_text_gives_equal_bytes_and_content(tmp_path: Path) -> None:
    contents = set()
    for name in ("a", "b"):
        write(tmp_path / name)
        contents.add(opened(tmp_path / name).manifest.content)
    assert len(contents) == 1
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("file", ["source.items", "target.offsets", "manifest.json"])
def test_a_damaged_store_is_not_opened(tmp_path: Path, file: str) -> None:
    write(tmp_path / "store")
    path = tmp_path / "store" / file
    path.write_bytes(path.read_bytes()[:-1])
    assert Store.open(tmp_path / "store") is None
    path.unlink()
    assert Store.open(tmp_path / "store") is None


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"):
        write(tmp_path / "store", then=RuntimeError("midway"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-store").mkdir()
    (tmp_path / ".tmp-store" / "source.items").write_bytes(b"half")
    write(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("method", ["append", "finish"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module._ArrayFile, method, full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_store_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write(tmp_path / "store", "uint16")
    with pytest.raises(RuntimeError):
        write(tmp_path / "store", "uint32", then=RuntimeError())
    assert opened(tmp_path / "store").manifest.dtype == "uint16"
    write(tmp_path / "store", "uint32")
    assert opened(tmp_path / "store").manifest.dtype == "uint32"


@pytest.mark.parametrize(("memory_pages", "is_read"), [(1 << 20, True), (1, False)])
def test_a_store_is_read_ahead_where_it_fits(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch, memory_pages: int, is_read: bool
) -> None:
    advised: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, length, advice: advised.append(advice))
    monkeypatch.setattr(os, "sysconf", lambda name: memory_pages if name == "SC_PHYS_PAGES" else 4096)
    read_ahead([make_store(500)])
    assert advised == ([os.POSIX_FADV_WILLNEED] * 4 if is_read else [])


def test_a_changed_byte_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "store")
    store = opened(tmp_path / "store")
    assert store.damage() == []
    path = tmp_path / "store" / "source.items"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert store.damage() == ["source.items"]
