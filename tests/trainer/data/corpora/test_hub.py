"""A dataset in the Hub's form, here in a local folder, is streamed; a Hub that does not answer is soon reported."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets.packaged_modules.cache.cache import Cache

from trainer.data.config import CorpusConfig
from trainer.data.corpora import hub
from trainer.data.corpora.sources import read_pairs, source_identity, source_revision
from trainer.errors import Unavailable, UserError

PAIRS = [(f"word {n}", f"Wort {n}") for n in range(10)]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two shards of several row groups and a validation split, in the folders that the Hub uses."""
    folder = tmp_path / "dataset" / "de-en"
    folder.mkdir(parents=True)
    shards = {
        "train-00000-of-00002": PAIRS[:7],
        "train-00001-of-00002": PAIRS[7:],
        "validation-00000-of-00001": PAIRS[:1],
    }
    for name, pairs in shards.items():
        table = pyarrow.table({"translation": [{"de": target, "en": source} for source, target in pairs]})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    configs = "- config_name: de-en\n  data_files:\n" + "".join(
        f"  - {{split: {split}, path: de-en/{split}-*}}\n" for split in ("train", "validation")
    )
    (folder.parent / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.setattr(hub, "hub_revision", lambda name: None)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return str(folder.parent)


def read(name: str, **settings: Any) -> list[tuple[str, str]]:
    corpus = CorpusConfig(hub=name, **{"config": "de-en", "languages": ("en", "de"), **settings})
    return [pair for block in read_pairs(corpus) for pair in zip(*block, strict=True)]


def test_all_shards_of_a_split_are_read(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "BATCH_ROWS", 2)
    assert read(dataset) == PAIRS
    assert read(dataset, split="validation") == PAIRS[:1]
    assert read(dataset, limit=5) == PAIRS[:5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": ("en", "fr")}, "`languages` of .* names 'fr', but the data has de, en"),
        ({"split": "dev"}, "the Hub's dataset .* cannot be read: .*dev"),
        ({"config": "fr-en"}, "the Hub's dataset .* cannot be read: .*fr-en"),
    ],
)
def test_what_a_dataset_lacks_is_told(settings: dict[str, Any], message: str, dataset: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read(dataset, **settings)
    assert not isinstance(refused.value, Unavailable)


def test_a_network_that_goes_away_is_told_with_the_row(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        def with_format(self, name: str) -> "Rows":
            return self

        def iter(self, batch_size: int) -> Iterator[pyarrow.Table]:
            yield pyarrow.table({"translation": [{"de": "eins", "en": "one"}] * 3})
            raise ConnectionError("Server Disconnected")

    monkeypatch.setattr(hub, "_open", lambda corpus, revision: Rows())
    with pytest.raises(UserError, match=r"beyond row 3 \(Server Disconnected\): start again when the network is back"):
        read(dataset)


@pytest.mark.parametrize(
    "failure",
    [ConnectionError("reset"), TimeoutError(), OSError("502 Bad Gateway"), FileNotFoundError("not in the cache")],
)
def test_a_hiccup_before_the_first_row_keeps_what_is_finished(
    failure: Exception, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise failure

    monkeypatch.setattr("datasets.load_dataset_builder", fail)
    with pytest.raises(Unavailable, match=r"cannot be read \(.*\): start again"):
        read(dataset)


def test_an_old_copy_in_the_cache_is_not_taken_for_the_dataset(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = object.__new__(Cache)
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *arguments, **settings: cached)
    with pytest.raises(Unavailable, match="the Hub gave no answer"):
        read(dataset)


def test_all_readings_are_of_the_revision_that_was_found_first(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    commits, loaded = iter(["first", "second"]), []

    def load(*arguments: Any, revision: str) -> None:
        loaded.append(revision)
        pytest.fail("it need not be read")

    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda *arguments, **settings: SimpleNamespace(sha=next(commits))
    )
    monkeypatch.setattr("datasets.load_dataset_builder", load)
    corpus = CorpusConfig(hub="some/changing", config="de-en", languages=("en", "de"))
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception):
            next(read_pairs(corpus))
    assert loaded == ["first", "first"]
    assert source_revision(corpus) == "first"
    assert source_revision(CorpusConfig(source="a.en", target="a.de")) is None


def test_a_hub_that_cannot_be_reached_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"the Hub cannot be reached for the dataset wmt/wmt14 \(ConnectError\): prepare"
    ):
        read("wmt/wmt14")


def test_offline_mode_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub cannot be reached for the dataset wmt/wmt14"):
        read("wmt/wmt14")


def test_identity_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("the network was asked"))
    first = source_identity(CorpusConfig(hub="wmt/wmt14", config="de-en", languages=("en", "de")))
    other = source_identity(CorpusConfig(hub="wmt/wmt14", config="de-en", languages=("en", "de"), split="test"))
    assert first != other
