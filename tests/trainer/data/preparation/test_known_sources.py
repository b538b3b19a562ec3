"""Text that is gone after preparation: only what is read is needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.data.preparation.build_stores import Prepared, build_stores, check_text, open_prepared
from trainer.data.preparation.known_sources import KnownSources
from trainer.data.preparation.validation import load_validation
from trainer.errors import Unavailable, UserError

MODEL = TokenizerConfig(vocab_size=292)


@pytest.fixture
def data(make_corpus: Callable[..., CorpusConfig], tmp_path: Path) -> DataConfig:
    """A run's data with every kind of file that may go, besides the text: a language identifier too."""
    (tmp_path / "language.py").write_text("def f(texts): return ['xx'] * len(texts)\n")
    lines = [f"sentence number {n}" for n in range(40)]
    return DataConfig(
        train=(make_corpus(lines, [line.upper() for line in lines], name="train"),),
        valid=(make_corpus(["one", "two"], ["ONE", "TWO"], name="dev"),),
        cache=str(tmp_path / "cache"),
        filters=FilterConfig(language_id=f"{tmp_path}/language.py:f", languages=("xx", "xx")),
    )


def content(prepared: Prepared) -> list[str]:
    return [prepared.tokenizers.fingerprint, *(store.manifest.content for store in prepared.stores)]


@pytest.mark.parametrize("mode", ["store", "stream"])
def test_text_that_is_gone_is_not_needed(data: DataConfig, tmp_path: Path, mode: Literal["store", "stream"]) -> None:
    data = replace(data, mode=mode)
    before = build_stores(data, MODEL, tmp_path / "run", 1)
    for name in ("train.en", "train.de", "dev.en", "dev.de", "language.py"):
        (tmp_path / name).unlink()
        for run in ("run", f"new-{name}"):  # a run that resumes, and one that starts with the same cache
            assert check_text(data, MODEL, tmp_path / run) == []
            again = build_stores(data, MODEL, tmp_path / run, 1)
            assert (content(again), again.reused) == (content(before), (True,))
    assert content(open_prepared(data, tmp_path / "run")) == content(before)
    validation = load_validation(data.valid[0], before.tokenizers, tmp_path / "cache")
    assert validation.references == ["ONE", "TWO"]


@pytest.mark.parametrize("gone", ["train.en", "train.de", "dev.de"])
def test_text_that_must_be_read_is_named_once(data: DataConfig, tmp_path: Path, gone: str) -> None:
    build_stores(data, MODEL, tmp_path / "run", 1)
    (tmp_path / gone).unlink()
    other = replace(data, cache=str(tmp_path / "other"))
    for call in (check_text, build_stores):
        with pytest.raises(UserError) as raised:
            call(other, MODEL, tmp_path / "new")
        assert str(raised.value).count(str(tmp_path / gone)) == 1
    assert not (tmp_path / "new").exists()


def test_other_filters_need_the_text_again(data: DataConfig, tmp_path: Path) -> None:
    build_stores(data, MODEL, tmp_path / "run", 1)
    (tmp_path / "train.en").unlink()
    with pytest.raises(UserError, match=r"train\.en does not exist"):
        build_stores(replace(data, filters=FilterConfig(copies=False)), MODEL, tmp_path / "run", 1)


def test_a_changed_side_is_not_taken_for_the_old_pair(data: DataConfig, tmp_path: Path) -> None:
    build_stores(data, MODEL, tmp_path / "run", 1)
    (tmp_path / "train.en").unlink()
    (tmp_path / "train.de").write_text("another text\n")
    with pytest.raises(UserError, match=r"train\.en does not exist"):
        build_stores(data, MODEL, tmp_path / "run", 1)


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    known = KnownSources(tmp_path)
    assert known.identity("a.txt", lambda place: [1, 2]) == [1, 2]
    known.keep()

    def gone(place: str) -> None:
        raise Unavailable("no network")

    assert KnownSources(tmp_path).identity("a.txt", gone) == [1, 2]
    for path in (tmp_path / "sources").iterdir():
        path.write_text('{"place": ')
    with pytest.raises(Unavailable):
        KnownSources(tmp_path).identity("a.txt", gone)


def test_a_replaced_tokenizer_is_named_before_missing_text(data: DataConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = build_stores(data, MODEL, run, 1).tokenizers.source.model_bytes
    (tmp_path / "train.en").unlink()
    (run / "tokenizer.model").write_bytes(model + b"x")
    for call in (check_text, build_stores):
        with pytest.raises(UserError, match=rf"^{run}/tokenizer\.model is not the tokenizer that this run"):
            call(data, MODEL, run)
    # One that the configuration names is the user's own.
    with pytest.raises(UserError, match=r"train\.en does not exist"):
        check_text(data, TokenizerConfig(path=str(run / "tokenizer.model")), run)
