import io
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from numpy.typing import NDArray

from tests.limits import patience
from trainer.data.config import TokenizerConfig
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds, Tokenizer, TokenizerPair, train_tokenizer
from trainer.errors import UserError

WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrstü", k=6)) for n in range(200)]
LINES = [f"the old house {' '.join(WORDS[n : n + 5])}" for n in range(200)]


def lines() -> Iterator[str]:
    return iter(LINES)


def trained(kind: Any, **settings: Any) -> Tokenizer:
    return train_tokenizer(lines(), TokenizerConfig(kind=kind, vocab_size=330, **settings))


def sentences(side: Side) -> list[list[int]]:
    return [part.tolist() for part in np.split(side.token_L, np.cumsum(side.length_N)[:-1])]


def seeds(count: int, key: int = 1) -> NDArray[np.uint64]:
    return np.random.default_rng(key).integers(0, 2**64, count, np.uint64)


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


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_side_holds_what_encode_gives_and_eos(kind: Any) -> None:
    tokenizer = trained(kind)
    text = [*LINES[:50], "", "日本語 ☃", "  blank  "]
    expected = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode(text)]
    assert sentences(tokenizer.encode_side(text)) == expected
    assert sentences(tokenizer.encode_side([line.encode() for line in text])) == expected
    nothing = tokenizer.encode_side([])
    assert (len(nothing.token_L), len(nothing.length_N)) == (0, 0)


def test_eos_of_a_foreign_model_ends_a_side() -> None:
    tokenizer = foreign(bos_id=-1, pad_id=-1, unk_id=0, eos_id=1)
    assert [ids[-1] for ids in sentences(tokenizer.encode_side(LINES[:3]))] == [1, 1, 1]


def test_without_byte_fallback_unknown_characters_have_no_ids() -> None:
    for kind in ("unigram", "bpe"):
        config = TokenizerConfig(kind=kind, vocab_size=100, byte_fallback=False)
        tokenizer = train_tokenizer(lines(), config)
        known, unknown = tokenizer.encode(["old", "日本語"])
        assert tokenizer.unk_id not in known
        assert unknown.count(tokenizer.unk_id) == 1
        drawn = sentences(tokenizer.sample_side(["日本語"] * 9, 0.1, seeds(9)))
        assert all(ids.count(tokenizer.unk_id) == 1 for ids in drawn)


SAMPLINGS = [("unigram", 0.1), ("unigram", 0.5), ("bpe", 0.1)]


@pytest.mark.parametrize(("kind", "strength"), SAMPLINGS)
def test_a_drawn_segmentation_is_the_same_text(kind: Any, strength: float) -> None:
    tokenizer = trained(kind)
    text = [*LINES, "日本語 ☃", "", " ".join(LINES)]
    drawn = sentences(tokenizer.sample_side(text, strength, seeds(len(text))))
    assert tokenizer.decode(drawn) == text
    assert all(ids[-1] == tokenizer.eos_id and tokenizer.eos_id not in ids[:-1] for ids in drawn)
    assert drawn != sentences(tokenizer.encode_side(text))


@pytest.mark.parametrize(("kind", "strength"), SAMPLINGS)
def test_a_draw_depends_on_its_seed_alone(kind: Any, strength: float) -> None:
    """Not on the block, the sentences before it, the generator's state, or how often it was drawn."""
    tokenizer, seed_N = trained(kind), seeds(len(LINES))
    drawn = sentences(tokenizer.sample_side(LINES, strength, seed_N))
    again = tokenizer.sample_side(LINES[::-1], strength, seed_N[::-1])
    assert sentences(again)[::-1] == drawn
    random.seed(7)
    tokenizer.sample_side(["something else before it"], strength, seeds(1))
    for place in (3, 3, 9):
        one = tokenizer.sample_side([LINES[place].encode()], strength, seed_N[place : place + 1])
        assert sentences(one) == [drawn[place]]


@pytest.mark.parametrize(("kind", "strength"), SAMPLINGS)
def test_other_seeds_draw_other_segmentations(kind: Any, strength: float) -> None:
    tokenizer, line = trained(kind), " ".join(LINES)
    for seed_N in (seeds(9), np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1], np.uint64)):
        drawn = sentences(tokenizer.sample_side([line] * len(seed_N), strength, seed_N))
        assert len(set(map(tuple, drawn))) == len(drawn)


DRAWING = """
import sys, numpy as np
from pathlib import Path
from trainer.data.text.tokenizer import Tokenizer
side = Tokenizer(Path(sys.argv[1]).read_bytes()).sample_side(["the old house"] * 9, 0.2, np.arange(9, dtype=np.uint64))
print(side.token_L.tolist(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_another_process_draws_the_same_without_torch(tmp_path: Path, kind: Any) -> None:
    tokenizer = trained(kind)
    (tmp_path / "m.model").write_bytes(tokenizer.model_bytes)
    command = [sys.executable, "-c", DRAWING, str(tmp_path / "m.model")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    side = tokenizer.sample_side(["the old house"] * 9, 0.2, np.arange(9, dtype=np.uint64))
    assert found.stdout == f"{side.token_L.tolist()} False\n"


TRAINING = """
import random
from trainer.data.config import TokenizerConfig
from trainer.data.text.tokenizer import train_tokenizer
def lines():
    for n in range(60_000):
        yield " ".join("".join(random.choices("abcdefghijklmnopqrst", k=8)) for _ in range(10))
    print("read", flush=True)
train_tokenizer(lines(), TokenizerConfig(vocab_size=8000))
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_training_in_its_midst() -> None:
    with subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "read\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=patience(120)) == -signal.SIGINT


def test_draws_follow_the_probabilities_of_a_unigram_model() -> None:
    """P(segmentation) ∝ exp(alpha times the sum of its pieces' scores), Kudo 2018, over all segmentations."""
    tokenizer, alpha, count = trained("unigram"), 0.3, 4000
    library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    every = library.nbest_encode("the old house", nbest_size=512)
    assert 10 < len(every) < 512
    weights = [float(np.exp(alpha * sum(library.get_score(ids)))) for ids in every]
    drawn = [
        tuple(ids[:-1]) for ids in sentences(tokenizer.sample_side(["the old house"] * count, alpha, seeds(count)))
    ]
    assert set(drawn) <= set(map(tuple, every))
    for ids, weight in zip(every[:5], weights, strict=False):
        share = weight / sum(weights)
        assert drawn.count(tuple(ids)) / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_draws_follow_bpe_dropout() -> None:
    """Against the library, whose own draws differ from process to process and are only alike in their frequencies."""
    tokenizer, dropout, count = trained("bpe"), 0.3, 4000
    library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    settings: Any = {"enable_sampling": True, "nbest_size": -1, "alpha": dropout}
    expected = [tuple(library.encode("the house", **settings)) for _ in range(4 * count)]
    drawn = [tuple(ids[:-1]) for ids in sentences(tokenizer.sample_side(["the house"] * count, dropout, seeds(count)))]
    assert set(drawn) <= set(expected)
    for ids in sorted(set(expected), key=expected.count)[-6:]:
        share = expected.count(ids) / len(expected)
        assert drawn.count(ids) / count == pytest.approx(share, abs=6 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_symbols_of_the_user_are_never_split(kind: Any) -> None:
    tokenizer = trained(kind, user_symbols=("<old>", "use"))
    line = f"<old> the old house <old> {LINES[0]}"
    assert {4, 5} < set(tokenizer.encode(["<old> use"])[0])
    drawn = sentences(tokenizer.sample_side([line] * 300, 0.1, seeds(300)))
    assert {ids.count(4) for ids in drawn} == {2}
    assert {ids.count(5) for ids in drawn} == {2}
    assert len(set(map(tuple, drawn))) > 30
    assert set(tokenizer.decode(drawn)) == {line}


def test_a_model_of_one_segmentation_cannot_sample() -> None:
    for kind in ("unigram", "bpe"):
        trained(kind).check_sampling()
    with pytest.raises(
        UserError, match=r"`tokenizer\.sampling` must be null with foreign\.model, which is a CHAR model"
    ):
        foreign(model_type="char", pad_id=3).check_sampling()


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer: Tokenizer) -> None:
    pair = pickle.loads(pickle.dumps(TokenizerPair(tokenizer, tokenizer)))
    assert pair.source is pair.target
    assert pair.source.encode(LINES) == tokenizer.encode(LINES)
    assert pair.fingerprint == TokenizerPair(tokenizer, tokenizer).fingerprint


def test_a_pair_lies_in_one_file_or_two(tmp_path: Path) -> None:
    first, second = trained("unigram"), trained("bpe")
    for pair, names in (
        (TokenizerPair(first, first), ["tokenizer.model"]),
        (TokenizerPair(first, second), ["tokenizer.source.model", "tokenizer.target.model"]),
    ):
        directory = tmp_path / str(len(names))
        directory.mkdir()
        assert sorted(pair.files()) == names
        for name, content in pair.files().items():
            assert not TokenizerPair.exists(directory)
            (directory / name).write_bytes(content)
        assert TokenizerPair.exists(directory)
        loaded = TokenizerPair.load(directory)
        assert loaded.joint == pair.joint == (len(names) == 1)
        assert (loaded.fingerprint, loaded.files()) == (pair.fingerprint, pair.files())
    assert len({TokenizerPair(a, b).fingerprint for a in (first, second) for b in (first, second)}) == 4


def test_the_special_ids_of_a_pair_are_those_of_its_sides() -> None:
    source = foreign(bos_id=-1, pad_id=-1, unk_id=0, eos_id=1)
    target = foreign(bos_id=5, pad_id=4, unk_id=0, eos_id=1)
    assert TokenizerPair(source, target).special_ids == SpecialIds(source.pad_id, 4, 5)
