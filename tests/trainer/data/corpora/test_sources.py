import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.data.config import CorpusConfig
from trainer.data.corpora.phrasebook import corpus as phrasebook
from trainer.data.corpora.sources import check_sources, corpus_name, corpus_place, read_pairs, source_identity
from trainer.errors import UserError

MakeCorpus = Callable[..., CorpusConfig]


def read(corpus: CorpusConfig) -> list[tuple[str, str]]:
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def test_limit_keeps_the_first_pairs(make_corpus: MakeCorpus) -> None:
    assert read(make_corpus(["a", "b", "c"], ["d", "e", "f"], limit=2)) == [("a", "d"), ("b", "e")]


def test_missing_file_is_found_without_reading(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    good = make_corpus(["a"], ["b"])
    check_sources([good, CorpusConfig(tsv="hf://datasets/a/b/*.tsv"), CorpusConfig(hub="a/b")])
    with pytest.raises(UserError, match=r"nowhere\.de does not exist"):
        check_sources([good, CorpusConfig(source=good.source, target=str(tmp_path / "nowhere.de"))])


def test_empty_corpus_is_refused(make_corpus: MakeCorpus) -> None:
    with pytest.raises(UserError, match=r"the corpus .*corpus\.en is empty"):
        read(make_corpus([], []))


def test_builtin_chooses_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrasebook, "pairs", lambda split: iter([(f"source {split}", f"target {split}")]))
    assert read(CorpusConfig(builtin="phrasebook", split="test")) == [("source test", "target test")]
    assert read(CorpusConfig(builtin="phrasebook")) == [("source train", "target train")]
    with pytest.raises(UserError, match="one of train, valid, test"):
        read(CorpusConfig(builtin="phrasebook", split="dev"))


def test_unknown_builtin_is_refused() -> None:
    with pytest.raises(UserError, match="'bible', but the only corpus"):
        read(CorpusConfig(builtin="bible"))


def test_identity_changes_with_all_that_chooses_the_text(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    pairs = make_corpus(["a"], ["b"])
    assert source_identity(replace(pairs, weight=2.0, name="other")) == source_identity(pairs)
    tsv = str(pairs.source)
    (tmp_path / "corpus.2.en").touch()
    different = [
        pairs,
        replace(pairs, limit=5),
        CorpusConfig(source=pairs.target, target=pairs.source),
        CorpusConfig(tsv=tsv),
        CorpusConfig(tsv=tsv, columns=(2, 1)),
        CorpusConfig(tsv=f"{tmp_path}/corpus*.en"),
        CorpusConfig(jsonl=tsv, columns=("a", "b")),
        CorpusConfig(jsonl=tsv, languages=("a", "b")),
        CorpusConfig(hub="a/b", languages=("a", "b")),
        CorpusConfig(hub="a/b", languages=("a", "b"), config="c"),
        CorpusConfig(builtin="phrasebook"),
        CorpusConfig(builtin="phrasebook", split="test"),
    ]
    assert len({str(source_identity(corpus)) for corpus in different}) == len(different)


def test_local_files_need_neither_datasets_nor_torch(make_corpus: MakeCorpus) -> None:
    """They take seconds to import, and `datasets` leaves files in its cache."""
    corpus = make_corpus(["a"], ["b"])
    program = f"""
import sys
from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import read_pairs
assert list(read_pairs({corpus})) == [(["a"], ["b"])]
assert not {{"datasets", "torch", "pyarrow", "aiohttp"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[4])


@pytest.mark.parametrize(
    ("corpus", "name", "place"),
    [
        (CorpusConfig(source="/data/train.en.gz", target="/data/train.de.gz"), "train", "/data/train.en.gz"),
        (CorpusConfig(hub="wmt/wmt14", config="de-en"), "wmt-wmt14-de-en-train", "wmt/wmt14"),
        (CorpusConfig(parquet="some/*.parquet"), "some", "some/*.parquet"),
        (CorpusConfig(parquet="train-*-of-[0-9]*.parquet"), "train--of", "train-*-of-[0-9]*.parquet"),
        (CorpusConfig(tsv="s3://bucket/pairs.tsv.zst"), "pairs", "s3://bucket/pairs.tsv.zst"),
        (CorpusConfig(builtin="phrasebook", name="../x y"), "-x-y", "phrasebook"),
    ],
)
def test_names_are_fit_for_folders(corpus: CorpusConfig, name: str, place: str) -> None:
    assert corpus_name(corpus) == name
    assert corpus_place(corpus) == place
    assert re.fullmatch(r"[\w.-]+", name)
