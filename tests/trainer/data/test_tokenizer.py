import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from trainer.data.config import TokenizerConfig
from trainer.data.tokenizer import Tokenizer, train_tokenizer
from trainer.errors import UserError

WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrstü", k=6)) for n in range(200)]
LINES = [f"the old house {' '.join(WORDS[n : n + 5])}" for n in range(200)]


def lines() -> Iterator[str]:
    return iter(LINES)


def foreign(**settings: Any) -> Tokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2, **settings
    )
    return Tokenizer(model.getvalue(), "foreign.model")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_any_text_survives_encoding_and_decoding(kind: Any) -> None:
    tokenizer = train_tokenizer(lines(), TokenizerConfig(kind=kind, vocab_size=330))
    text = ["the old house", "日本語 ☃", "", "a <pad> </s> b"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(tokenizer.unk_id not in sentence for sentence in ids)
    assert ids[2] == []
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == 330


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_training_is_deterministic(kind: Any) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=330)
    assert len({train_tokenizer(lines(), config).fingerprint for _ in range(4)}) == 1


def test_control_characters_do_no_harm(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(["a\0b", "\x07\x1b[0m", "\u2028", "\ufffe", "   ", "x" * 100_000])
    assert len(encoded) == 6
    assert encoded[4] == []


def test_special_ids_leave_no_trace_in_text(tokenizer: Tokenizer) -> None:
    house = tokenizer.encode(["house"])[0]
    assert tokenizer.decode([[tokenizer.bos_id, *house, tokenizer.eos_id, tokenizer.pad_id], []]) == ["house", ""]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_too_large_a_vocabulary_names_the_largest(kind: Any) -> None:
    with pytest.raises(UserError, match=r"`tokenizer\.vocab_size` is 50000, .* allow at most \d+") as caught:
        train_tokenizer(lines(), TokenizerConfig(kind=kind, vocab_size=50_000))
    largest = int(str(caught.value).split("at most ")[1].split(":")[0])
    assert train_tokenizer(lines(), TokenizerConfig(kind=kind, vocab_size=largest)).vocab_size == largest
    with pytest.raises(UserError):
        train_tokenizer(lines(), TokenizerConfig(kind=kind, vocab_size=largest + 1))


def test_too_small_a_vocabulary_names_the_need() -> None:
    with pytest.raises(UserError, match=r"`tokenizer\.vocab_size` is 100, but the characters, .* need \d+"):
        train_tokenizer(lines(), TokenizerConfig(vocab_size=100))


def test_no_text_no_tokenizer() -> None:
    with pytest.raises(UserError, match="hold no text"):
        train_tokenizer(iter([]), TokenizerConfig(vocab_size=300))


def test_missing_bos_and_pad_get_ids_of_their_own() -> None:
    tokenizer = foreign(bos_id=-1, pad_id=-1, unk_id=0, eos_id=1)
    ids = tokenizer.encode(["the old house"])[0]
    assert {tokenizer.bos_id, tokenizer.pad_id} == {tokenizer.vocab_size - 1, tokenizer.vocab_size - 2}
    assert max(ids) < tokenizer.vocab_size - 2
    assert tokenizer.decode([[tokenizer.bos_id, *ids, tokenizer.pad_id]]) == ["the old house"]


def test_a_model_without_eos_is_refused() -> None:
    with pytest.raises(UserError, match=r"foreign\.model has no end-of-sentence piece"):
        foreign(eos_id=-1)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.model").write_text("hello")
    with pytest.raises(UserError, match=r"text\.model is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "text.model")
    with pytest.raises(UserError, match=r"none\.model cannot be read: No such file"):
        Tokenizer.load(tmp_path / "none.model")


def test_fingerprint_is_of_the_content(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "copy.model").write_bytes(tokenizer.model_bytes)
    assert Tokenizer.load(tmp_path / "copy.model").fingerprint == tokenizer.fingerprint
    assert train_tokenizer(lines(), TokenizerConfig(vocab_size=330)).fingerprint != tokenizer.fingerprint
