from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.prepare import _training_lines, open_prepared, prepare
from trainer.data.tokenizer import Tokenizer
from trainer.errors import UserError

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
    prepared = prepare(data, model, tmp_path / "run")
    (store,) = prepared.stores
    assert store.manifest.rejected == {"empty source": 1, "empty target": 1, "too long": 1}
    for table, lines in ((store.source, SOURCES), (store.target, TARGETS)):
        for row, line in enumerate((lines[0], lines[4])):
            tokens, _ = table.gather(np.array([row]))
            assert tokens.tolist() == [*tokenizer.encode([line])[0], tokenizer.eos_id]


def test_the_length_limit_counts_eos_and_either_side(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    before = prepare(data, model, tmp_path / "run").stores[0].manifest
    (store,) = prepare(replace(data, max_length=data.max_length - 1), model, tmp_path / "run").stores
    assert store.manifest.rejected["too long"] == 2
    assert store.manifest.num_pairs == before.num_pairs - 1


def test_a_store_is_reused_until_something_it_holds_changes(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, make_corpus: MakeCorpus
) -> None:
    run = tmp_path / "run"
    assert prepare(data, model, run).reused == (False,)
    assert prepare(replace(data, max_tokens=999, window=77), model, run).reused == (True,)
    assert prepare(replace(data, max_length=200), model, run).reused == (False,)
    assert prepare(data, model, run).reused == (True,)
    make_corpus([*SOURCES, "new"], [*TARGETS, "neu"])
    again = prepare(data, model, run)
    assert again.reused == (False,)
    assert again.stores[0].manifest.num_pairs == 3


def test_a_damaged_store_is_built_again(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare(data, model, run)
    (tokens,) = (run / "data").glob("*/source.tokens")
    tokens.write_bytes(b"")
    assert prepare(data, model, run).reused == (False,)


def test_other_processes_open_what_was_prepared(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"tokenizer\.model cannot be read"):
        open_prepared(data, run)
    prepared = prepare(data, model, run)
    opened = open_prepared(data, run)
    assert opened.tokenizer.fingerprint == prepared.tokenizer.fingerprint
    assert [s.manifest for s in opened.stores] == [s.manifest for s in prepared.stores]
    with pytest.raises(UserError, match=r"no token store for .*corpus\.en: run `dragoman prepare`"):
        open_prepared(replace(data, max_length=100), run)


def test_runs_share_a_cache(data: DataConfig, model: TokenizerConfig, tmp_path: Path) -> None:
    shared = replace(data, cache=str(tmp_path / "cache"))
    assert prepare(shared, model, tmp_path / "one").reused == (False,)
    assert prepare(shared, model, tmp_path / "two").reused == (True,)


def test_a_tokenizer_is_trained_once_where_none_is_given(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    lines = [f"{a}{b} {c}{a} {b}{c}" for a in "abcdefg" for b in "hijklm" for c in "nopqrs"]
    data = DataConfig(train=(make_corpus(lines, [line[::-1] for line in lines]),))
    first = prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "run")
    assert first.tokenizer.vocab_size == 300
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == first.tokenizer.model_bytes
    assert prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "run").reused == (True,)
    with pytest.raises(UserError, match=r"`tokenizer\.vocab_size` is 299, but .* has 300 pieces"):
        prepare(data, TokenizerConfig(vocab_size=299), tmp_path / "run")


def test_another_given_tokenizer_needs_another_run(
    data: DataConfig, model: TokenizerConfig, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    prepare(data, model, tmp_path / "run")
    changed = tokenizer.model_bytes.replace(b"\xe2\x96\x81", b"\xe2\x96\x82", 1)
    (tmp_path / "given.model").write_bytes(changed)
    with pytest.raises(UserError, match=r"differs from `tokenizer\.path`"):
        prepare(data, model, tmp_path / "run")


def test_the_tokenizers_sample_is_bounded_fair_and_fixed(make_corpus: MakeCorpus) -> None:
    corpora = [make_corpus([f"s{n}" for n in range(300)], [f"t{n}" for n in range(300)])]
    sample = list(_training_lines(corpora, 100))
    assert sample == list(_training_lines(corpora, 100))
    assert len(sample) == 200
    numbers = [int(line[1:]) for line in sample]
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == 100
    assert 20 < sum(n < 100 for n in set(numbers)) < 50
    assert len(list(_training_lines(corpora, 1000))) == 600


def test_a_corpus_without_usable_pairs_is_refused_and_leaves_no_store(
    make_corpus: MakeCorpus, model: TokenizerConfig, tmp_path: Path
) -> None:
    data = DataConfig(train=(make_corpus(["", "", "x"], ["a", "b", ""]),))
    with pytest.raises(
        UserError, match=r"no pair of the corpus .*corpus\.en can be used: 2 empty source, 1 empty target"
    ):
        prepare(data, model, tmp_path / "run")
    assert list((tmp_path / "run" / "data").iterdir()) == []


def test_bad_text_leaves_no_store(make_corpus: MakeCorpus, model: TokenizerConfig, tmp_path: Path) -> None:
    data = DataConfig(train=(make_corpus(["a"] * 20_000, ["b"] * 20_001),))
    with pytest.raises(UserError, match="20000 lines"):
        prepare(data, model, tmp_path / "run")
    assert list((tmp_path / "run" / "data").iterdir()) == []


def test_no_training_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data\.train` is empty"):
        prepare(DataConfig(), TokenizerConfig(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_validation_text_is_found_before_training(
    data: DataConfig, model: TokenizerConfig, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    bad = make_corpus(["a", "b"], ["c"], name="dev")
    with pytest.raises(UserError, match=r"dev\.en has 2 lines but .*dev\.de has 1"):
        prepare(replace(data, valid=(bad,)), model, tmp_path / "run")
    good = make_corpus(["a", "b"], ["c", "d"], name="dev")
    prepare(replace(data, valid=(good,)), model, tmp_path / "run")
    assert len(list((tmp_path / "run" / "data").glob("valid-dev-*.json"))) == 1
