import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trainer.data import phrasebook, sources
from trainer.data.config import CorpusConfig
from trainer.data.sources import check_sources, corpus_name, read_pairs, source_identity
from trainer.errors import UserError

MakeCorpus = Callable[..., CorpusConfig]


def read(corpus: CorpusConfig) -> list[tuple[str, str]]:
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def test_lines_end_at_line_feeds_only(make_corpus: MakeCorpus) -> None:
    odd = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
    corpus = make_corpus(f"{odd}\nsecond\r\nthird".encode(), "\ufeffeins\n\ndrei\n".encode())
    assert read(corpus) == [(odd, "eins"), ("second", ""), ("third", "drei")]


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open], ids=["gz", "bz2", "xz"])
def test_compressed_text_reads_like_plain_text(opener: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    suffix = request.node.callspec.id
    paths = [tmp_path / f"a.{side}.{suffix}" for side in ("en", "de")]
    lines = [f"line {n}" for n in range(25_000)]  # more than one block
    for path in paths:
        with opener(path, "wt") as file:
            file.write("\n".join(lines))
    assert read(CorpusConfig(source=str(paths[0]), target=str(paths[1]))) == list(zip(lines, lines, strict=True))


def test_chunks_do_not_cut_lines_or_characters(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 3)
    assert read(make_corpus(["schön", "grün"], ["née", "€uro"])) == [("schön", "née"), ("grün", "€uro")]


def test_limit_keeps_the_first_pairs(make_corpus: MakeCorpus) -> None:
    assert read(make_corpus(["a", "b", "c"], ["d", "e", "f"], limit=2)) == [("a", "d"), ("b", "e")]


def test_different_line_counts_are_named(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(["x"] * 30_000, ["y"] * 12_345)
    with pytest.raises(UserError, match=r"corpus\.en has 30000 lines but .*corpus\.de has 12345"):
        read(corpus)


def test_invalid_utf8_is_located(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 4)
    with pytest.raises(UserError, match=r"corpus\.de, line 3: byte 0xff is not valid UTF-8"):
        read(make_corpus(["a", "b", "c"], b"eins\nzwei\ndr\xffi\n"))


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open], ids=["gz", "bz2", "xz"])
def test_truncated_file_is_named(
    opener: Any, make_corpus: MakeCorpus, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / f"cut.{request.node.callspec.id}"
    with opener(path, "wt") as file:
        file.writelines(f"line {n * 7919}\n" for n in range(5000))
    path.write_bytes(path.read_bytes()[:-200])
    target = make_corpus([], ["y"] * 5000).target
    with pytest.raises(UserError, match=rf"{path.name} is cut off"):
        read(CorpusConfig(source=str(path), target=target))


def test_a_false_suffix_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plain.gz"
    path.write_text("no gzip\n")
    with pytest.raises(UserError, match=r"plain\.gz cannot be read: Not a gzipped file"):
        read(CorpusConfig(source=str(path), target=str(path)))


def test_missing_file_is_found_without_reading(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    good = make_corpus(["a"], ["b"])
    check_sources([good])
    with pytest.raises(UserError, match=r"nowhere\.de does not exist"):
        check_sources([good, CorpusConfig(source=good.source, target=str(tmp_path / "nowhere.de"))])
    with pytest.raises(UserError, match="does not exist"):
        check_sources([CorpusConfig(source=str(tmp_path), target=good.target)])


def test_empty_corpus_is_refused(make_corpus: MakeCorpus) -> None:
    with pytest.raises(UserError, match=r"the corpus .*corpus\.en is empty"):
        read(make_corpus([], []))


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[dict[str, list[Any]]], str]:
    def write(columns: dict[str, list[Any]]) -> str:
        path = tmp_path / "table.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return str(path)

    return write


def test_parquet_in_the_hubs_shape(parquet: Callable[..., str]) -> None:
    path = parquet({"translation": [{"de": "eins", "en": "one"}, {"de": None, "en": "two"}]})
    assert read(CorpusConfig(parquet=path, languages=("en", "de"))) == [("one", "eins"), ("two", "")]


def test_parquet_with_two_columns(parquet: Callable[..., str]) -> None:
    path = parquet({"number": [1, 2], "src": ["one", "two"], "tgt": ["eins", "zwei"]})
    assert read(CorpusConfig(parquet=path, languages=("src", "tgt"), limit=1)) == [("one", "eins")]


def test_missing_column_is_named(parquet: Callable[..., str]) -> None:
    path = parquet({"src": ["one"], "tgt": ["eins"]})
    with pytest.raises(UserError, match=r"table\.parquet names 'en', but the data has src, tgt"):
        read(CorpusConfig(parquet=path, languages=("en", "tgt")))


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read as Parquet"):
        read(CorpusConfig(parquet=str(path), languages=("en", "de")))


def test_hub_offline_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub cannot be reached for the dataset wmt/wmt14"):
        read(CorpusConfig(hub="wmt/wmt14", config="de-en", languages=("en", "de")))


def test_hub_rows_come_through_streaming(parquet: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    path = parquet({"translation": [{"de": "eins", "en": "one"}]})
    load, calls = datasets.load_dataset, []

    def from_file(*arguments: Any, **settings: Any) -> Any:
        calls.append((arguments, settings))
        return load("parquet", data_files=path, split="train", streaming=True)

    monkeypatch.setattr(sources, "_check_hub", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", from_file)
    corpus = CorpusConfig(hub="wmt/wmt14", config="de-en", split="validation", languages=("en", "de"))
    assert read(corpus) == [("one", "eins")]
    assert calls == [(("wmt/wmt14", "de-en"), {"split": "validation", "streaming": True})]


def test_builtin_chooses_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrasebook, "pairs", lambda split: iter([(f"source {split}", f"target {split}")]))
    assert read(CorpusConfig(builtin="phrasebook", split="test")) == [("source test", "target test")]
    assert read(CorpusConfig(builtin="phrasebook")) == [("source train", "target train")]
    with pytest.raises(UserError, match="one of train, valid, test"):
        read(CorpusConfig(builtin="phrasebook", split="dev"))


def test_unknown_builtin_is_refused() -> None:
    with pytest.raises(UserError, match="'bible', but the only corpus"):
        read(CorpusConfig(builtin="bible"))


def test_identity_changes_with_the_file_and_the_limit(make_corpus: MakeCorpus) -> None:
    before = source_identity(make_corpus(["a"], ["b"]))
    assert source_identity(make_corpus(["a"], ["b"], limit=5)) != before
    assert source_identity(make_corpus(["ab"], ["b"])) != before
    assert source_identity(CorpusConfig(builtin="phrasebook")) == source_identity(CorpusConfig(builtin="phrasebook"))


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        (CorpusConfig(source="/data/train.en.gz", target="/data/train.de.gz"), "train"),
        (CorpusConfig(hub="wmt/wmt14", config="de-en"), "wmt-wmt14-de-en-train"),
        (CorpusConfig(parquet="some/*.parquet"), "-"),
        (CorpusConfig(builtin="phrasebook", name="../x y"), "-x-y"),
    ],
)
def test_names_are_fit_for_folders(corpus: CorpusConfig, name: str) -> None:
    assert corpus_name(corpus) == name
    assert re.fullmatch(r"[\w.-]+", name)
