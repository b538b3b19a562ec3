"""Line-aligned files and tab-separated ones give the pairs they hold, or the place where they do not."""

import gzip
from pathlib import Path

import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora import lines
from trainer.data.corpora.sources import read_pairs
from trainer.errors import UserError


def read(corpus: CorpusConfig) -> list[tuple[str, str]]:
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def write(path: Path, *rows: str) -> str:
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())
    return str(path)


def parallel(folder: Path, **settings: str) -> CorpusConfig:
    return CorpusConfig(source=f"{folder}/*.en*", target=f"{folder}/*.de*", **settings)  # type: ignore[arg-type]


def test_files_of_different_kinds_go_together(tmp_path: Path) -> None:
    rows = [f"line {n}" for n in range(25_000)]  # more than one block
    with gzip.open(tmp_path / "a.en.gz", "wt") as file:
        file.write("\n".join(rows))
    write(tmp_path / "a.de", *rows)
    assert read(parallel(tmp_path)) == list(zip(rows, rows, strict=True))


def test_shards_go_together_in_sorted_order(tmp_path: Path) -> None:
    for shard in ("2", "1", "3"):
        write(tmp_path / f"{shard}.en", f"one {shard}", f"two {shard}")
        write(tmp_path / f"{shard}.de", f"eins {shard}", f"zwei {shard}")
    expected = [(f"{a} {shard}", f"{b} {shard}") for shard in "123" for a, b in (("one", "eins"), ("two", "zwei"))]
    assert read(parallel(tmp_path)) == expected


def test_a_shard_without_its_translation_is_told(tmp_path: Path) -> None:
    for name in ("1.en", "2.en", "1.de"):
        write(tmp_path / name, "x")
    with pytest.raises(UserError, match=r"\*\.en\* names 2 files but .*\*\.de\* names 1"):
        read(parallel(tmp_path))


def test_different_line_counts_are_told_with_their_shard(tmp_path: Path) -> None:
    for shard, count in (("1", 5), ("2", 12_345)):
        write(tmp_path / f"{shard}.en", *["x"] * (30_000 if shard == "2" else count))
        write(tmp_path / f"{shard}.de", *["y"] * count)
    with pytest.raises(UserError, match=r"2\.en has 30000 lines but .*2\.de has 12345"):
        read(parallel(tmp_path))


def test_tsv_has_the_source_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'one\teins\tx"', '"two\tzwei', "\t")
    assert read(CorpusConfig(tsv=path)) == [("one", "eins"), ('"two', "zwei"), ("", "")]


def test_tsv_columns_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "1\tone\teins", "2\ttwo\tzwei\tmore")
    assert read(CorpusConfig(tsv=path, columns=(3, 2))) == [("eins", "one"), ("zwei", "two")]


def test_tsv_columns_by_name_in_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 4)
    write(tmp_path / "1.tsv", "en\tde\tid", "one\teins\t1", "two\tzwei\t2")
    write(tmp_path / "2.tsv", "\ufeffde\ten", "drei\tthree")
    corpus = CorpusConfig(tsv=f"{tmp_path}/*.tsv", columns=("en", "de"))
    assert read(corpus) == [("one", "eins"), ("two", "zwei"), ("three", "drei")]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "en\tde", "one\teins")
    with pytest.raises(UserError, match=r"`columns` of .*a\.tsv names 'fr', but its first line has en, de"):
        read(CorpusConfig(tsv=path, columns=("en", "fr")))


def test_a_first_line_of_text_is_told_in_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", f"one{' one' * 100}\t\x1b[2Jeins")
    with pytest.raises(UserError, match=r"its first line has one( one)* ?…: give") as told:
        read(CorpusConfig(tsv=path, columns=("en", "de")))
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(("header", "columns"), [([], (1, 3)), (["de\tx\ten"], ("en", "de"))])
def test_a_short_row_is_located(header: list[str], columns: tuple[str | int, str | int], tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", *header, *["a\tb\tc"] * 2, "a\tb", "a\tb\tc")
    with pytest.raises(UserError, match=rf"a\.tsv, line {3 + len(header)} ends after column 2, but column 3 is needed"):
        read(CorpusConfig(tsv=path, columns=columns))


def test_a_file_of_one_header_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "en\tde")
    with pytest.raises(UserError, match=r"the corpus .*a\.tsv is empty"):
        read(CorpusConfig(tsv=path, columns=("en", "de")))
