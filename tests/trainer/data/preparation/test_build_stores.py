from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.data.corpora.sources import Block, read_pairs
from trainer.data.preparation import part_workers
from trainer.data.preparation.build_stores import build_stores, open_prepared, verify
from trainer.data.preparation.other_stores import other_stores
from trainer.data.preparation.working_folder import working_folder
from trainer.data.stores.store import Store
from trainer.data.text.tokenizer import Tokenizer
from trainer.errors import UserError

MODULE = "trainer.data.preparation.build_stores"

MakeCorpus = Callable[..., CorpusConfig]
SOURCES = ["a house", "", "a tree", "one two three four five six seven eight nine ten", "the end"]
TARGETS = ["ein Haus", "leer", "   ", "zu lang", "das Ende"]


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> TokenizerConfig:
    (tmp_path / "given.model").write_bytes(tokenizer.model_bytes)
    return TokenizerConfig(path=str(tmp_path / "given.model"))


@pytest.fixture
def data(make_corpus: MakeCorpus, tokenizer: Tokenizer) -> DataConfig:
    longest = max(len(ids) for ids in tokenizer.encode([*TARGETS, SOURCES[0], SOURCES[4]]))
    return DataConfig(train=(make_corpus(SOURCES, TARGETS),), max_length=longest + 1)


def test_stores_hold_the_usable_pairs_and_count_the_others(
    data: DataConfig, model: TokenizerConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prepared = build_stores(data, model, tmp_path / "run")
    (store,) = prepared.stores
    assert store.manifest.rejected == {"empty source": 1, "empty target": 1, "too long": 1}
    for table, lines in ((store.source, SOURCES), (store.target, TARGETS)):
        for row, line in enumerate((lines[0], lines[4])):
            token_L = table.gather(np.array([row])).token_L
            assert token_L.tolist() == [*tokenizer.encode([line])[0], tokenizer.eos_id]


def test_the_length_limit_counts_eos_and_either_side(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    before = build_stores(data, model, tmp_path / "run").stores[0].manifest
    (store,) = build_stores(replace(data, max_length=data.max_length - 1), model, tmp_path / "run").stores
    assert store.manifest.rejected["too long"] == 2
    assert store.manifest.num_pairs == before.num_pairs - 1


def test_a_store_is_reused_until_something_it_holds_changes(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    run = tmp_path / "run"
    assert build_stores(data, model, run).reused == (False,)
    assert build_stores(replace(data, max_tokens=999, window=77), model, run).reused == (True,)
    assert build_stores(replace(data, max_length=200), model, run).reused == (False,)
    assert build_stores(data, model, run).reused == (True,)
    make_corpus([*SOURCES, "new"], [*TARGETS, "neu"])
    again = build_stores(data, model, run)
    assert again.reused == (False,)
    assert again.stores[0].manifest.num_pairs == 3


def test_it_is_told_why_a_corpus_is_prepared_again(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = replace(data, train=(*data.train, replace(data.train[0], limit=1)))
    first = build_stores(twice, model, tmp_path / "run")
    assert "prepared again" not in capsys.readouterr().err
    build_stores(replace(twice, max_length=200), model, tmp_path / "run")
    told = [line for line in capsys.readouterr().err.splitlines() if "prepared again" in line]
    assert len(told) == 2
    assert all(store.directory.name in told[0] for store in first.stores)


def test_a_damaged_store_is_built_again(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    build_stores(data, model, run)
    (tokens,) = (run / "data").glob("*/source.items")
    tokens.write_bytes(b"")
    assert build_stores(data, model, run).reused == (False,)


def test_other_processes_open_what_was_prepared(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"tokenizer\.model cannot be read"):
        open_prepared(data, run)
    prepared = build_stores(data, model, run)
    opened = open_prepared(data, run)
    assert opened.tokenizers.fingerprint == prepared.tokenizers.fingerprint
    assert [s.manifest for s in opened.stores] == [s.manifest for s in prepared.stores]
    with pytest.raises(UserError, match=r"no store for .*corpus\.en: run `dragoman prepare`"):
        open_prepared(replace(data, max_length=100), run)


def test_runs_share_a_cache(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    shared = replace(data, cache=str(tmp_path / "cache"))
    assert build_stores(shared, model, tmp_path / "one").reused == (False,)
    assert build_stores(shared, model, tmp_path / "two").reused == (True,)


def test_filters_decide_what_a_store_is_and_the_mixture_does_not(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    build_stores(data, model, run)
    heavier = replace(data, train=(replace(data.train[0], weight=2.0),), temperature=5.0)
    assert build_stores(heavier, model, run).reused == (True,)
    unfiltered = build_stores(replace(data, filters=FilterConfig(empty=False)), model, run)
    assert unfiltered.reused == (False,)
    assert unfiltered.stores[0].manifest.rejected == {"too long": 1}


def test_another_language_identifier_makes_another_store(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "identify.py"
    file.write_text("def identify(texts):\n    return ['en'] * len(texts)\n")
    filters = FilterConfig(language_id=f"{file}:identify", languages=("en", "en"))
    identified = replace(data, filters=filters)
    assert build_stores(identified, model, tmp_path / "run").reused == (False,)
    assert build_stores(identified, model, tmp_path / "run").reused == (True,)
    file.write_text(file.read_text() + "# a better one\n")
    assert build_stores(identified, model, tmp_path / "run").reused == (False,)


def test_the_text_of_a_stream_is_that_of_the_store_row_by_row(
    data: DataConfig, model: TokenizerConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Where nothing is too long; the text depends on neither tokenizer nor length."""
    long = replace(data, max_length=500)
    (tokens,) = build_stores(long, model, tmp_path / "run").stores
    (text,) = build_stores(replace(long, mode="stream"), model, tmp_path / "run").stores
    assert (tokens.manifest.kind, text.manifest.kind) == ("tokens", "text")
    assert tokens.manifest.num_pairs == text.manifest.num_pairs == 3
    row_N = np.arange(3)
    for token_table, text_table in ((tokens.source, text.source), (tokens.target, text.target)):
        encoded, stored = tokenizer.encode_side(text_table.texts(row_N)), token_table.gather(row_N)
        assert stored.token_L.tolist() == encoded.token_L.tolist()
        assert stored.length_N.tolist() == encoded.length_N.tolist()
    shorter = replace(data, mode="stream")
    assert build_stores(shorter, model, tmp_path / "run").reused == (True,)
    assert open_prepared(shorter, tmp_path / "run").stores[0].manifest == text.manifest


@pytest.mark.parametrize("mode", ["store", "stream"])
def test_tokenizers_are_trained_once_where_none_are_given(
    make_corpus: MakeCorpus, tmp_path: Path, mode: Literal["store", "stream"]
) -> None:
    lines = [f"{a}{b} {c}{a} {b}{c}" for a in "abcdefg" for b in "hijklm" for c in "nopqrs"]
    data = DataConfig(train=(make_corpus(lines, [line[::-1] for line in lines]),), mode=mode)
    first = build_stores(data, TokenizerConfig(vocab_size=300), tmp_path / "run")
    assert first.tokenizers.source.vocab_size == 300
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == first.tokenizers.source.model_bytes
    again = build_stores(data, TokenizerConfig(vocab_size=300), tmp_path / "run")
    assert (again.reused, again.tokenizers.fingerprint) == ((True,), first.tokenizers.fingerprint)


def test_what_other_configurations_left_is_named_and_kept(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    old = build_stores(data, model, tmp_path / "run").stores[0].directory
    unfinished = tmp_path / "run" / "data" / ".parts-other"
    unfinished.mkdir()
    (unfinished / "part").write_bytes(b"1234")
    found = dict(other_stores(build_stores(replace(data, max_length=200), model, tmp_path / "run")))
    assert found == {old: sum(file.stat().st_size for file in old.iterdir()), unfinished: 4}
    assert old.exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["store", "stream"])
def test_workers_do_not_decide_what_is_in_a_store(
    make_corpus: MakeCorpus, model: TokenizerConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, mode: Literal["store", "stream"],
) -> None:  # fmt: skip
    """Nor do parts: duplicates are found across them."""
    sources = [f"line {n % 300}" for n in range(700)]
    data = DataConfig(train=(make_corpus(sources, [text[::-1] for text in sources]),), mode=mode)
    files = []
    for part_pairs, workers in ((10_000, 1), (64, 2)):
        monkeypatch.setattr(part_workers, "PART_PAIRS", part_pairs)
        cache = tmp_path / f"cache-{part_pairs}-{workers}"
        (store,) = build_stores(replace(data, cache=str(cache)), model, cache / "run", workers).stores
        files.append({path.name: path.read_bytes() for path in store.directory.iterdir()})
        assert {path.name for path in cache.iterdir()} == {store.directory.name, "run", "sources"}
        assert (store.manifest.num_pairs, store.manifest.rejected["duplicate"]) == (300, 400)
    assert files[0] == files[1]


def test_a_corpus_without_usable_pairs_is_refused_and_leaves_no_store(
    make_corpus: MakeCorpus, model: TokenizerConfig, tmp_path: Path
) -> None:
    data = DataConfig(train=(make_corpus(["", "", "x"], ["a", "b", ""]),))
    with pytest.raises(
        UserError, match=r"no pair of the corpus .*corpus\.en can be used: 2 empty source, 1 empty target"
    ):
        build_stores(data, model, tmp_path / "run")
    assert list((tmp_path / "run" / "data").iterdir()) == []


def test_bad_text_leaves_no_store(
    make_corpus: MakeCorpus, model: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the part that a worker has finished by then."""
    monkeypatch.setattr(part_workers, "PART_PAIRS", 10)
    data = DataConfig(train=(make_corpus(["a"] * 20, ["b"] * 21),))
    with pytest.raises(UserError, match="20 lines"):
        build_stores(data, model, tmp_path / "run", 1)
    assert list((tmp_path / "run" / "data").iterdir()) == []


def test_text_that_changes_while_it_is_read_is_refused(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(corpus: CorpusConfig) -> Iterator[Block]:
        yield from read_pairs(corpus)
        Path(corpus.source or "").write_text("changed\n")

    monkeypatch.setattr(f"{MODULE}.read_pairs", changing)
    with pytest.raises(UserError, match=r"corpus\.en changed while it was read"):
        build_stores(data, model, tmp_path / "run")
    assert list((tmp_path / "run" / "data").iterdir()) == []


@pytest.mark.parametrize(("revision", "kept"), [("first", b"old"), ("second", b"new")])
def test_finished_parts_are_of_one_revision_of_the_corpus(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, revision: str, kept: bytes,
) -> None:  # fmt: skip
    stream = replace(data, mode="stream")
    with monkeypatch.context() as killed:
        killed.setattr(f"{MODULE}.source_revision", lambda corpus: "first")
        killed.setattr(f"{MODULE}.read_pairs", lambda corpus: iter([(["old"], ["alt"])]))
        killed.setattr(f"{MODULE}.deduplicate_and_write", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_stores(stream, model, tmp_path / "run")
    monkeypatch.setattr(f"{MODULE}.source_revision", lambda corpus: revision)
    monkeypatch.setattr(f"{MODULE}.read_pairs", lambda corpus: iter([(["new"], ["neu"])]))
    (store,) = build_stores(stream, model, tmp_path / "run").stores
    assert store.source.texts(np.array([0])) == [kept]


def test_no_training_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data\.train` is empty"):
        build_stores(DataConfig(), TokenizerConfig(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_validation_text_is_found_before_training(
    data: DataConfig, model: TokenizerConfig, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    bad = make_corpus(["a", "b"], ["c"], name="dev")
    with pytest.raises(UserError, match=r"dev\.en has 2 lines but .*dev\.de has 1"):
        build_stores(replace(data, valid=(bad,)), model, tmp_path / "run")
    good = make_corpus(["a", "b"], ["c", "d"], name="dev")
    build_stores(replace(data, valid=(good,)), model, tmp_path / "run")
    assert len(list((tmp_path / "run" / "data").glob("valid-dev-*.json"))) == 1


def test_a_language_identifier_that_is_not_there_is_told(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    filters = FilterConfig(language_id=f"{tmp_path}/nowhere.py:f", languages=("en", "de"))
    with pytest.raises(UserError, match=r"`data\.filters\.language_id` is .*nowhere\.py cannot be imported"):
        build_stores(replace(data, filters=filters), model, tmp_path / "run")


def test_what_others_work_on_or_remove_is_not_named(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = build_stores(data, model, tmp_path / "run")
    cache = prepared.stores[0].directory.parent
    (cache / ".tmp-other").mkdir()
    with working_folder(cache / ".parts-other"):
        assert list(other_stores(prepared)) == []
    assert list(other_stores(prepared)) == [(cache / ".tmp-other", 0)]

    def vanishing(directory: Path) -> None:
        raise FileNotFoundError(directory)

    monkeypatch.setattr(Store, "open", vanishing)
    (cache / "vanishing").mkdir()
    assert list(other_stores(prepared)) == [(cache / ".tmp-other", 0)]


def test_parts_that_a_kill_left_beside_the_finished_store_are_removed(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    directory = build_stores(data, model, tmp_path / "run").stores[0].directory
    left = directory.with_name(f".parts-{directory.name}")
    left.mkdir()
    (left / "part-000000.npz").touch()
    assert build_stores(data, model, tmp_path / "run").reused == (True,)
    assert not left.exists()


def test_text_that_is_all_too_long_is_refused_before_training(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"`data\.train\.0` \(corpus\) cannot be used: 3 pairs .* are all longer than"):
        build_stores(replace(data, mode="stream", max_length=2), model, tmp_path / "run")


def test_a_store_with_a_changed_byte_is_told_with_the_remedy(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path
) -> None:
    build_stores(data, model, tmp_path / "run")
    again = build_stores(data, model, tmp_path / "run")
    verify(again)
    file = again.stores[0].directory / "target.items"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(UserError, match=rf"{file} is damaged, .*: delete the folder {file.parent} and prepare"):
        verify(again)
    verify(replace(again, reused=(False,)))  # written a moment ago
