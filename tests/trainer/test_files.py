import os
import threading
from pathlib import Path

import pytest

from trainer.files import (
    append_json_line,
    is_locked,
    json_lines,
    locked,
    publish_folder,
    read_json_lines,
    write_atomically,
    writing_atomically,
)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "Grüße\r\n")
    assert path.read_bytes() == "Grüße\r\n".encode()
    write_atomically(path, b"\x00\xff", durable=False)
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), writing_atomically(path) as file:
        file.write(b"new, but not all of it" + str(path))  # type: ignore[operator]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_reaches_the_disk_before_the_name_and_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_atomically(path, "x", durable=False)
    assert not synced
    path.unlink()
    write_atomically(path, "x")
    (content, _), (folder, _) = synced
    assert [there for _, there in synced] == [False, True]
    assert Path(content).parent == Path(folder) == tmp_path


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    failures: list[Exception] = []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_atomically(path, letter * 10_000, durable=False)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in {letter * 10_000 for letter in "abc"}


def test_a_folder_is_published_with_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, final = tmp_path / "draft", tmp_path / "final"
    (draft / "inner").mkdir(parents=True)
    (draft / "inner" / "file").write_text("x")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    publish_folder(draft, final)
    assert sorted(synced[:-2]) == [str(draft / "inner"), str(draft / "inner" / "file")]
    assert synced[-2:] == [str(draft), str(tmp_path)]
    assert (final / "inner" / "file").read_text() == "x"
    assert not draft.exists()


def test_json_lines_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"a": 1}\n[]\n\xff\nnot\n' + b"[" * 200_000 + b'\n{"a": "x\xe2\x80\xa8y\xc2\x85z"}\n{"a": 3}')
    assert read_json_lines(path) == [{"a": 1}, {"a": "x\u2028y\x85z"}]
    assert next(line for line, _ in json_lines(path.read_bytes())) == b'{"a": 1}\n'


def test_a_line_after_one_that_was_cut_short_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_json_line(path, {"a": "ä\u2028\ud800"})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append_json_line(path, {"a": 3})
    assert [record["a"] for record in read_json_lines(path)] == ["ä\u2028?", 3]


def test_a_lock_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, seconds=0):
            pass
    assert not is_locked(path)
    with locked(path, seconds=0):
        pass
