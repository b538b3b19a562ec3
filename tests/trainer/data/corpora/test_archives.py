"""Archives are refused with one sentence, by name before anything is read and by content whatever the name."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora.compressed_files import check_files, find_files, read_bytes
from trainer.data.corpora.sources import read_pairs
from trainer.errors import UserError


def tar(format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        member = tarfile.TarInfo("train.en")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"a cat\n"))
    return file.getvalue()


def old_tar() -> bytes:
    """Without the word `ustar`, as before 1988."""
    header = bytearray(tar()[:512])
    header[257:] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"a cat\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.en", "a cat\n")
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tar.gz", "a.TGZ", "a.tar.xz", "a.tbz2", "a.tar.zst", "a.zip", "a.7z", "a.rar"]
)
def test_archives_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"a cat\n")
    for pattern in (name, name.replace("a", "*", 1)):
        for function in (find_files, check_files):
            with pytest.raises(UserError, match=rf"{name} is an archive, not text: unpack it"):
                function(f"{tmp_path}/{pattern}")


def test_archives_at_an_address_are_refused_but_their_members_are_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.tar\.gz is an archive"):
        check_files("s3://bucket/a.tar.gz")
    (tmp_path / "a.zip").write_bytes(zipped())
    address = f"zip://train.en::file://{tmp_path}/a.zip"
    assert b"".join(read_bytes(*find_files(address))) == b"a cat\n"
    fsspec.filesystem("memory").pipe("/archives/a.zip", zipped())
    with pytest.raises(UserError, match=r"a\.zip is an archive"):
        find_files("memory://archives/*")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.en", tar(), "a tar archive"),
        ("a.en", tar(tarfile.PAX_FORMAT), "a tar archive"),
        ("a.en", old_tar(), "a tar archive"),
        ("a.en.gz", gzip.compress(tar(tarfile.GNU_FORMAT)), "a tar archive"),
        ("a.en.gz", gzip.compress(gzip.compress(b"a cat\n")), "gzip data"),
        ("a.en", gzip.compress(b"a cat\n"), "gzip data"),
        ("a.en", zipped(), "a zip archive"),
        ("a.en", b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    ],
    # Not the content, which holds the time of day.
    ids=["tar", "pax", "old tar", "tar in gzip", "gzip in gzip", "gzip", "zip", "7z"],
)
def test_archives_are_refused_by_content(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    for side in (name, name.replace("en", "de")):
        (tmp_path / side).write_bytes(content)
    corpus = CorpusConfig(source=f"{tmp_path}/{name}", target=f"{tmp_path}/{name.replace('en', 'de')}")
    with pytest.raises(UserError, match=rf"{name} is {kind}, not text: "):
        next(read_pairs(corpus))


@pytest.mark.parametrize("content", [b"", b"\n", b"PK", b"7z is a program\n", b"0" * 600, bytes(600)])
def test_text_passes_unchanged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(content)
    assert b"".join(read_bytes(f"{tmp_path}/a.en")) == content
