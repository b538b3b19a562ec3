"""`~` and variables in every setting that names a file or folder."""

import os
from pathlib import Path

import pytest

from tests.trainer.configuration.smallest import refusal
from trainer.configuration.paths import expand
from trainer.configuration.reading import dump, load, load_resolved
from trainer.configuration.same_run import differences
from trainer.errors import UserError

WRITTEN = [
    "run.directory=~/runs/base",
    "data.cache=$SCRATCH/cache",
    "data.train=[{source: '${SCRATCH}/p.*.en', target: ~/p.*.de}, {tsv: $SCRATCH/a}, {jsonl: ~/a, columns: [a, b]}]",
    "data.valid=[{parquet: $SCRATCH/v, columns: [a, b], name: $SCRATCH}]",
    "tokenizer.path=$SCRATCH/a.model",
    "tokenizer.target_path=~/b.model",
    "tokenizer.joint=false",
    "model.tied_embeddings=none",
    "data.filters.language_id=$SCRATCH/identify.py:identify",
    "data.filters.languages=[en, de]",
]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)


def test_every_path_is_expanded_and_nothing_else(path: Path) -> None:
    config = load(path, WRITTEN)
    assert config.run.directory == "/home/me/runs/base"
    assert config.data.cache == "/scratch/me/cache"
    first, second, third = config.data.train
    assert (first.source, first.target) == ("/scratch/me/p.*.en", "/home/me/p.*.de")
    assert (second.tsv, third.jsonl) == ("/scratch/me/a", "/home/me/a")
    assert (config.data.valid[0].parquet, config.data.valid[0].name) == ("/scratch/me/v", "$SCRATCH")
    assert (config.tokenizer.path, config.tokenizer.target_path) == ("/scratch/me/a.model", "/home/me/b.model")
    assert config.data.filters.language_id == "/scratch/me/identify.py:identify"


def test_what_is_written_is_expanded_and_the_same_run_as_the_literal_path(path: Path, tmp_path: Path) -> None:
    config = load(path, WRITTEN)
    expanded, literal = tmp_path / "expanded.yaml", tmp_path / "literal.yaml"
    expanded.write_text(dump(config))
    assert "$SCRATCH/" not in expanded.read_text()
    # As older versions wrote it.
    literal.write_text(dump(config).replace("/scratch/me", "$SCRATCH").replace("/home/me", "~"))
    for written in (expanded, literal):
        assert differences(load_resolved(written), config) == []
    assert load(expanded) == config


@pytest.mark.parametrize(
    "address", ["s3://bucket/$NOWHERE/a", "https://host/~me/a.gz", "hf://datasets/a/b", "zip://~::s3://b/a.zip"]
)
def test_an_address_stays_as_it_is(address: str) -> None:
    assert expand(address, "`data.cache`") == address


@pytest.mark.parametrize("written", ["a$1", "a$", "a~b", "$$", "a/~/b", "100%$-", "${}", "C$-", "./~"])
def test_what_is_no_variable_stays_as_it_is(written: str) -> None:
    assert expand(written, "`data.cache`") == written


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("run.directory=$NOWHERE/a", "run.directory"),
        ("data.cache=${NOWHERE}", "data.cache"),
        ("data.train=[{builtin: phrasebook}, {source: $NOWHERE/a, target: b}]", "data.train.1.source"),
        ("tokenizer.path=$SCRATCH/$NOWHERE", "tokenizer.path"),
    ],
)
def test_a_variable_that_is_not_set_is_refused(path: Path, override: str, setting: str) -> None:
    message = refusal(path, override)
    assert message.startswith(f"`{setting}` is ")
    assert "the environment variable NOWHERE is not set" in message


def test_a_user_that_does_not_exist_is_refused(path: Path) -> None:
    assert "no user of that name" in refusal(path, "data.cache=~nobody-of-this-name/a")


def test_a_written_configuration_is_read_without_its_variables(path: Path) -> None:
    """An old model directory is of use where $SCRATCH is not set."""
    path.write_text("run: {directory: $NOWHERE/a}\ndata: {train: [{source: $NOWHERE/a, target: b}]}")
    config = load_resolved(path)
    assert (config.run.directory, config.data.train[0].source) == ("$NOWHERE/a", "$NOWHERE/a")


def test_a_file_that_has_such_a_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in$NOWHERE.en", "~nobody-of-this-name"):
        with pytest.raises(UserError):
            expand(name, "`data.cache`")
        (tmp_path / name).touch()
        assert expand(name, "`data.cache`") == name
    assert expand("~", "`data.cache`") == os.environ["HOME"]
