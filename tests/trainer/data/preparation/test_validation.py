from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.data.config import CorpusConfig, TokenizerConfig
from trainer.data.preparation import validation
from trainer.data.preparation.known_sources import KnownSources
from trainer.data.preparation.validation import copy_validation, load_validation
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizer


@pytest.fixture
def joint(tokenizer: Tokenizer) -> TokenizerPair:
    return TokenizerPair(tokenizer, tokenizer)


def test_a_set_keeps_every_line(make_corpus: Callable[..., CorpusConfig], tokenizer: Tokenizer) -> None:
    corpus = make_corpus(["a tree", "", "the end"], ["ein Baum", "leer", ""], name="dev")
    loaded = load_validation(corpus, TokenizerPair(tokenizer, tokenizer))
    assert (loaded.name, loaded.sources, loaded.references) == (
        "dev",
        ["a tree", "", "the end"],
        ["ein Baum", "leer", ""],
    )
    assert loaded.pairs[1][0] == [tokenizer.eos_id]
    assert loaded.pairs[2][1] == [tokenizer.eos_id]
    assert loaded.pairs[0][1] == [*tokenizer.encode(["ein Baum"])[0], tokenizer.eos_id]


def test_each_side_is_encoded_by_its_own_tokenizer(
    make_corpus: Callable[..., CorpusConfig], tokenizer: Tokenizer
) -> None:
    target = train_tokenizer(iter(["ein Baum, das Ende"] * 9), TokenizerConfig(kind="bpe", vocab_size=275))
    [pair] = load_validation(make_corpus(["a tree"], ["ein Baum"]), TokenizerPair(tokenizer, target)).pairs
    expected = [tokenizer.encode(["a tree"])[0], target.encode(["ein Baum"])[0]]
    assert list(pair) == [[*expected[0], tokenizer.eos_id], [*expected[1], target.eos_id]]


def test_a_copy_stands_in_for_a_source_that_is_gone(
    make_corpus: Callable[..., CorpusConfig], joint: TokenizerPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(["a tree", "the end"], ["ein Baum", "das Ende"])
    expected = load_validation(corpus, joint)
    copy_validation(corpus, tmp_path / "copies", KnownSources(tmp_path / "copies"))
    monkeypatch.setattr(validation, "read_pairs", lambda corpus: pytest.fail("read again"))
    copy_validation(corpus, tmp_path / "copies", KnownSources(tmp_path / "copies"))
    assert load_validation(corpus, joint, tmp_path / "copies") == expected


def test_a_changed_source_is_copied_again(
    make_corpus: Callable[..., CorpusConfig], joint: TokenizerPair, tmp_path: Path
) -> None:
    copy_validation(make_corpus(["a"], ["b"]), tmp_path / "copies", KnownSources(tmp_path / "copies"))
    corpus = make_corpus(["changed"], ["b"])
    copy_validation(corpus, tmp_path / "copies", KnownSources(tmp_path / "copies"))
    assert load_validation(corpus, joint, tmp_path / "copies").sources == ["changed"]
