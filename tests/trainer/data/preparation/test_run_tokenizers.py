from dataclasses import replace
from pathlib import Path

import pytest

from trainer.data.config import TokenizerConfig
from trainer.data.corpora.sources import Block
from trainer.data.preparation.run_tokenizers import remove_tokenizers, run_tokenizers
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
    with pytest.raises(UserError, match=r"differs from `tokenizer\.path`"):
        run_tokenizers(given, tmp_path / "run", tmp_path / "trained", no_sample)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.source.model", "tokenizer.target.model"])
def test_another_tokenizer_under_the_same_name_is_named(tmp_path: Path, name: str) -> None:
    """Also one that would hide the run's own: the files of separate tokenizers come first."""
    config = replace(TRAINED, joint=name == "tokenizer.model")
    run, trained = tmp_path / "run", tmp_path / "trained"
    own = run_tokenizers(config, run, trained, sample).files()
    for stray in {name, "tokenizer.source.model"}:
        (run / stray).write_bytes(train_tokenizer(iter(SOURCES), replace(TRAINED, kind="bpe")).model_bytes)
        named = rf"^{run / stray} is not the tokenizer that this run was prepared with"
        with pytest.raises(UserError, match=named):
            run_tokenizers(config, run, trained, sample)
        with pytest.raises(UserError, match=named):
            remove_tokenizers(run, config, config)
        (run / stray).write_bytes(own[stray]) if stray in own else (run / stray).unlink()
    assert run_tokenizers(config, run, trained, no_sample).files() == own


def test_a_missing_tokenizer_is_made_again_but_never_another_one(tmp_path: Path) -> None:
    run, trained = tmp_path / "run", tmp_path / "trained"
    own = run_tokenizers(TRAINED, run, trained, sample).fingerprint
    (run / "tokenizer.model").unlink()
    assert run_tokenizers(TRAINED, run, trained, no_sample).fingerprint == own
    (run / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model is missing, and the configuration now makes another"):
        run_tokenizers(replace(TRAINED, vocab_size=301), run, tmp_path / "other", sample)


def test_a_given_one_may_be_gone_once_it_is_copied(given: TokenizerConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = run_tokenizers(given, run, tmp_path / "trained", no_sample).fingerprint
    (tmp_path / "given.model").unlink()
    remove_tokenizers(run, given, given)
    assert run_tokenizers(given, run, tmp_path / "trained", no_sample).fingerprint == own
    remove_tokenizers(run, given, replace(given, path="elsewhere.model"))
    with pytest.raises(UserError, match=r"the tokenizer .*given\.model cannot be read"):
        run_tokenizers(given, run, tmp_path / "trained", no_sample)


def test_a_run_of_an_older_version_has_no_record_yet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_tokenizers(TRAINED, run, tmp_path / "trained", sample)
    (run / "tokenizer.sha256").unlink()
    run_tokenizers(TRAINED, run, tmp_path / "trained", no_sample)
    assert (run / "tokenizer.sha256").read_text().endswith("  tokenizer.model\n")
