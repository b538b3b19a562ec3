from dataclasses import replace
from pathlib import Path

import pytest

from trainer.data.config import TokenizerConfig
from trainer.data.corpora.sources import Block
from trainer.data.preparation.run_tokenizers import run_tokenizers
from trainer.data.text.tokenizer import Tokenizer, train_tokenizer
from trainer.errors import UserError

SOURCES = [f"{a}{b} {c}{a} {b}{c}" for a in "abcdefg" for b in "hijklm" for c in "nopqrs"]
TARGETS = [line[::-1].upper() for line in SOURCES]
TRAINED = TokenizerConfig(vocab_size=300)


def sample() -> Block:
    return SOURCES, TARGETS


def no_sample() -> Block:
    raise AssertionError("trained again")


@pytest.fixture
def given(tokenizer: Tokenizer, tmp_path: Path) -> TokenizerConfig:
    (tmp_path / "given.model").write_bytes(tokenizer.model_bytes)
    return TokenizerConfig(path=str(tmp_path / "given.model"))


def test_one_is_trained_on_both_sides_and_only_once(tmp_path: Path) -> None:
    run, trained = tmp_path / "run", tmp_path / "cache" / "tokenizer-1"
    first = run_tokenizers(TRAINED, run, trained, sample)
    assert first.joint
    assert first.source.vocab_size == 300
    for line in (SOURCES[5], TARGETS[5]):
        assert first.source.unk_id not in first.source.encode([line])[0]
    again = run_tokenizers(TRAINED, run, trained, no_sample)
    other_run = run_tokenizers(TRAINED, tmp_path / "other", trained, no_sample)
    assert first.fingerprint == again.fingerprint == other_run.fingerprint


def test_each_language_has_its_own_where_they_are_not_joint(tmp_path: Path) -> None:
    config = replace(TRAINED, joint=False, byte_fallback=False, vocab_size=40)
    pair = run_tokenizers(config, tmp_path / "run", tmp_path / "trained", sample)
    assert not pair.joint
    assert pair.source.unk_id in pair.source.encode([TARGETS[0]])[0]
    assert pair.target.unk_id not in pair.target.encode([TARGETS[0]])[0]
    again = run_tokenizers(config, tmp_path / "run", tmp_path / "trained", no_sample)
    assert again.fingerprint == pair.fingerprint


def test_another_vocabulary_needs_another_run(tmp_path: Path) -> None:
    run_tokenizers(TRAINED, tmp_path / "run", tmp_path / "trained", sample)
    with pytest.raises(UserError, match=r"`tokenizer\.vocab_size` is 299, but .* has 300 pieces"):
        run_tokenizers(replace(TRAINED, vocab_size=299), tmp_path / "run", tmp_path / "trained-other", sample)


def test_given_ones_are_copied_and_nothing_is_trained(
    given: TokenizerConfig, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    pair = run_tokenizers(given, tmp_path / "run", tmp_path / "trained", no_sample)
    assert pair.source.model_bytes == pair.target.model_bytes == tokenizer.model_bytes
    assert not (tmp_path / "trained").exists()
    other = train_tokenizer(iter(SOURCES), TRAINED)
    (tmp_path / "other.model").write_bytes(other.model_bytes)
    two = replace(given, joint=False, target_path=str(tmp_path / "other.model"))
    pair = run_tokenizers(two, tmp_path / "two", tmp_path / "trained", no_sample)
    assert (pair.source.fingerprint, pair.target.fingerprint) == (tokenizer.fingerprint, other.fingerprint)


def test_another_given_one_needs_another_run(given: TokenizerConfig, tmp_path: Path, tokenizer: Tokenizer) -> None:
    run_tokenizers(given, tmp_path / "run", tmp_path / "trained", no_sample)
    changed = tokenizer.model_bytes.replace(b"\xe2\x96\x81", b"\xe2\x96\x82", 1)
    (tmp_path / "given.model").write_bytes(changed)
    with pytest.raises(UserError, match=r"differ from `tokenizer\.path`"):
        run_tokenizers(given, tmp_path / "run", tmp_path / "trained", no_sample)
