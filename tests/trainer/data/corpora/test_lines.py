"""Lines keep their numbers, whatever the file is cut into."""

import gzip
from pathlib import Path

import pytest

from trainer.data.corpora import compressed_files as files
from trainer.data.corpora import lines
from trainer.data.corpora.lines import line_blocks
from trainer.errors import UserError


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 3)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 4)


def read(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return [line for block in line_blocks(str(path)) for line in block]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (b"\n\n\nlonger than a block\n\nx", ["", "", "", "longer than a block", "", "x"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        ("\ufeffschön\ngrün\n€uro".encode(), ["schön", "grün", "€uro"]),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
def test_lines_are_those_of_the_file(
    content: bytes, expected: list[str], in_pieces: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if in_pieces:
        request.getfixturevalue("tiny_pieces")
    assert read(tmp_path / "a.txt", content) == expected


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    odd = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
    assert read(tmp_path / "a.txt", f"{odd}\nsecond".encode()) == [odd, "second"]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_invalid_utf8_is_located(in_pieces: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if in_pieces:
        request.getfixturevalue("tiny_pieces")
    with pytest.raises(UserError, match=r"a\.txt, line 3: byte 0xff is not valid UTF-8"):
        read(tmp_path / "a.txt", b"\xef\xbb\xbfeins\nzwei\ndr\xffi\n")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_it_is_told_where_a_file_is_cut_off(in_pieces: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if in_pieces:
        request.getfixturevalue("tiny_pieces")
    whole = gzip.compress(b"one\n" * 5) + gzip.compress(b"two\nthree\n", compresslevel=0)
    with pytest.raises(UserError, match=r"a\.gz is cut off after line 6: its compressed data ends early"):
        read(tmp_path / "a.gz", whole[: whole.index(b"three")])


def test_a_file_without_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(UserError, match=r"a\.txt, line 3 is longer than 1,048,576 bytes"):
        read(tmp_path / "a.txt", b"a\nb\n" + b"c" * (3 << 20))
