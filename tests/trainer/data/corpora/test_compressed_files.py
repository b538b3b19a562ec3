"""Files are found, decompressed and told apart; what cannot be read to its end is named."""

import bz2
import errno
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from trainer.data.corpora.compressed_files import check_files, file_identity, find_files, naming, read_bytes
from trainer.errors import Unavailable, UserError

CONTENT = b"".join(b"line %d\n" % (n * 7919) for n in range(20_000))
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def read(path: Path) -> bytes:
    return b"".join(read_bytes(str(path)))


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_read_like_plain_ones(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](CONTENT))
    assert read(path) == CONTENT


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_streams_may_follow_one_another(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    compress = COMPRESSORS[suffix]
    path.write_bytes(compress(CONTENT) + compress(b"") + compress(b"end") + b"\0" * 8)
    assert read(path) == CONTENT + b"end"


def test_a_wide_window_of_zstandard_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=31, hash_log=6, chain_log=6, enable_ldm=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # of a size that is not known
    (tmp_path / "a.zst").write_bytes(stream.compress(CONTENT) + stream.flush())
    assert read(tmp_path / "a.zst") == CONTENT


@pytest.mark.parametrize("missing", [1, 5, 5000])
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_file_that_is_cut_off_is_named(suffix: str, missing: int, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](CONTENT)[:-missing])
    with pytest.raises(UserError, match=rf"a\.{suffix} is cut off"):
        read(path)


@pytest.mark.parametrize(
    ("failure", "may_pass"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (MemoryError(), True),
        (OSError("Invalid data stream"), False),
        (EOFError(), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_what_may_pass_keeps_what_is_finished(failure: Exception, may_pass: bool) -> None:
    with pytest.raises(UserError, match=r"a\.en ") as told, naming("a.en"):
        raise failure
    assert isinstance(told.value, Unavailable) == may_pass


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_false_suffix_is_told(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"plain.{suffix}"
    path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=rf"plain\.{suffix} cannot be read: "):
        read(path)


def test_shards_come_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.10.en", "b.09.en", "a.en", "b.09.de"):
        (tmp_path / name).touch()
    assert find_files(f"{tmp_path}/b.*.en") == [f"{tmp_path}/b.09.en", f"{tmp_path}/b.10.en"]


def test_a_file_with_the_name_of_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ("a[1].en", "a1.en"):
        (tmp_path / name).touch()
    assert find_files(f"{tmp_path}/a[1].en") == [f"{tmp_path}/a[1].en"]
    assert find_files(f"{tmp_path}/a?.en") == [f"{tmp_path}/a1.en"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nowhere.de", r"nowhere\.de does not exist"),
        ("folder", r"folder does not exist \(or is no file\)"),
        ("*.de", r"no corpus file matches .*\*\.de"),
    ],
)
def test_missing_files_are_found_without_reading(pattern: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        check_files(f"{tmp_path}/{pattern}")


def test_a_file_is_another_when_its_size_or_time_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.en"
    path.write_text("a")
    os.utime(path, (1, 1))
    first = file_identity(str(path))
    assert file_identity(os.path.relpath(path)) == first
    path.write_text("b")
    os.utime(path, (2, 2))
    second = file_identity(str(path))
    path.write_text("bc")
    os.utime(path, (2, 2))
    assert len({str(first), str(second), str(file_identity(str(path)))}) == 3
