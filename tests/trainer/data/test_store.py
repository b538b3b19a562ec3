import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data import store as store_module
from trainer.data.store import Store, publish_file, token_index, writing_store
from trainer.errors import UserError

SOURCES = [[5, 6, 3], [7, 3], [8, 9, 10, 3]]
TARGETS = [[11, 3], [12, 13, 14, 3], [15, 3]]


def write(directory: Path, vocab_size: int = 100, then: Exception | None = None) -> None:
    with writing_store(directory, vocab_size) as writer:
        writer.append(SOURCES[:2], TARGETS[:2])
        writer.append([], [])
        writer.append(SOURCES[2:], TARGETS[2:])
        writer.finish("name", "fingerprint", {"too long": 4})
        if then:
            raise then


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_what_is_written_is_read(tmp_path: Path, vocab_size: int, dtype: Any) -> None:
    write(tmp_path / "store", vocab_size)
    store = Store.open(tmp_path / "store")
    assert store is not None
    for table, sentences in ((store.source, SOURCES), (store.target, TARGETS)):
        tokens, lengths = table.gather(np.array([2, 0, 1, 2]))
        assert tokens.dtype == dtype
        assert tokens.tolist() == [t for n in (2, 0, 1, 2) for t in sentences[n]]
        assert lengths.tolist() == [len(sentences[n]) for n in (2, 0, 1, 2)]
    manifest = store.manifest
    assert (manifest.num_pairs, manifest.num_source_tokens, manifest.num_target_tokens) == (3, 9, 8)
    assert manifest.rejected == {"too long": 4}


def test_token_index_names_every_place() -> None:
    assert token_index(np.array([10, 0, 5]), np.array([2, 0, 3])).tolist() == [10, 11, 5, 6, 7]
    assert token_index(np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_equal_text_gives_equal_bytes_and_content(tmp_path: Path) -> None:
    contents = set()
    for name in ("a", "b"):
        write(tmp_path / name)
        store = Store.open(tmp_path / name)
        assert store is not None
        contents.add(store.manifest.content)
    assert len(contents) == 1
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("file", ["source.tokens", "target.offsets", "manifest.json"])
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
    (tmp_path / ".tmp-store" / "source.tokens").write_bytes(b"half")
    write(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("method", ["append", "finish"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module._TokenFile, method, full)
    with pytest.raises(UserError, match=r"no space left in .* `data\.cache`"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_store_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write(tmp_path / "store", vocab_size=100)
    with pytest.raises(RuntimeError):
        write(tmp_path / "store", vocab_size=70_000, then=RuntimeError())
    for vocab_size, dtype in ((None, "uint16"), (70_000, "uint32")):
        if vocab_size:
            write(tmp_path / "store", vocab_size)
        store = Store.open(tmp_path / "store")
        assert store is not None
        assert store.manifest.dtype == dtype


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_file(tmp_path / "new" / "file", b"first")

    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(UserError, match=r"no space left in .*new"):
        publish_file(tmp_path / "new" / "file", b"second")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"first"]
