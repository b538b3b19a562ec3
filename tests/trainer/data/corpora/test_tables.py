"""Parquet files give two columns, or two entries of `translation`, of all their row groups and shards."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora import tables
from trainer.data.corpora.sources import read_pairs
from trainer.errors import UserError

WORDS = [(f"word {n}", f"Wort {n}") for n in range(10)]


def write(path: Path, columns: dict[str, Any], row_group_size: int = 3) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return str(path)


def read(path: str, **settings: Any) -> list[tuple[str, str]]:
    corpus = CorpusConfig(parquet=path, **settings)
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def test_shards_in_the_hubs_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 2)
    for shard, words in enumerate((WORDS[:7], WORDS[7:])):
        rows = [{"de": target, "en": source} for source, target in words]
        write(tmp_path / f"train-{shard:05}-of-00002.parquet", {"translation": rows})
    assert read(f"{tmp_path}/train-*.parquet", languages=("en", "de")) == WORDS


def test_a_missing_text_is_an_empty_one(tmp_path: Path) -> None:
    rows = [{"de": None, "en": "one"}, None, {"de": "zwei", "en": "two"}]
    path = write(tmp_path / "t.parquet", {"translation": rows})
    assert read(path, languages=("en", "de")) == [("one", ""), ("", ""), ("two", "zwei")]
    path = write(tmp_path / "t.parquet", {"en": ["one", None], "de": [None, "zwei"]})
    assert read(path, columns=("en", "de")) == [("one", ""), ("", "zwei")]


@pytest.mark.parametrize("setting", ["columns", "languages"])
@pytest.mark.parametrize("text_type", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_two_columns_of_any_type_of_text(setting: str, text_type: pyarrow.DataType, tmp_path: Path) -> None:
    texts = {
        name: pyarrow.array(side).cast(text_type) for name, side in zip("ab", zip(*WORDS, strict=True), strict=True)
    }
    path = write(tmp_path / "t.parquet", {"number": range(10), **texts})
    assert read(path, **{setting: ("b", "a")}, limit=4) == [(target, source) for source, target in WORDS[:4]]


def test_only_the_two_columns_are_read(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "t.parquet", {"junk": ["x" * 50] * 10, "a": ["a"] * 10, "b": ["b"] * 10}))
    content = path.read_bytes()
    assert content.count(b"x" * 50) > 0
    path.write_bytes(content.replace(b"x" * 50, b"\xff" * 50))
    assert read(str(path), columns=("a", "b")) == [("a", "b")] * 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ("en", "b")}, r"`columns` of .*t\.parquet names 'en', but the data has translation, b"),
        ({"languages": ("en", "fr")}, r"`languages` of .*t\.parquet names 'fr', but the data has de, en"),
    ],
)
def test_a_missing_column_is_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"translation": [{"de": "eins", "en": "one"}], "b": ["x"]})
    with pytest.raises(UserError, match=message):
        read(path, **settings)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pyarrow.array([1, 2, 3, 4, 5]), r"row 1: 'a' must be a text, but is '1' \(int64\)"),
        (
            pyarrow.array([b"x", b"x", b"x", b"x", b"sch\xf6n"]).view(pyarrow.string()),
            "row 5: byte 0xf6 is not valid UTF-8",
        ),
    ],
)
def test_a_value_that_is_no_text_is_located(column: pyarrow.Array, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"a": column, "b": ["x"] * 5})
    with pytest.raises(UserError, match=rf"t\.parquet, {message}"):
        read(path, columns=("a", "b"))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read: Parquet magic bytes not found"):
        read(str(path), columns=("en", "de"))
    whole = Path(write(tmp_path / "t.parquet", {"en": ["one"], "de": ["eins"]})).read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read"):
        read(str(path), columns=("en", "de"))


def test_a_table_without_rows_is_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        read(
            write(
                tmp_path / "t.parquet",
                {"en": pyarrow.array([], pyarrow.string()), "de": pyarrow.array([], pyarrow.string())},
            ),
            columns=("en", "de"),
        )
