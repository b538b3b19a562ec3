from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.data import validation
from trainer.data.config import CorpusConfig, TokenizerConfig
from trainer.data.feed import Share
from trainer.data.tokenizer import SpecialIds, Tokenizer, TokenizerPair, train_tokenizer
from trainer.data.validation import IdPair, copy_validation, load_validation, validation_batches

IDS = SpecialIds(source_pad_id=0, target_pad_id=0, bos_id=2)


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


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_ranks_together_hold_every_pair_once(world_size: int) -> None:
    pairs: list[IdPair] = [([n, *[5] * (n % 7), 3], [n, *[6] * (n % 5), 3]) for n in range(10, 30)]
    pairs[4] = ([14, *[5] * 50, 3], [14, 3])
    seen = []
    for rank in range(world_size):
        for batch in validation_batches(pairs, IDS, 24, Share(rank, world_size)):
            firsts = batch.source_S[batch.source_cu[:-1].long()].tolist()
            assert firsts == batch.target_out_T[batch.target_cu[:-1].long()].tolist()
            assert firsts == [14] or max(batch.source_S.numel(), batch.target_out_T.numel()) <= 24
            seen += firsts
    assert sorted(seen) == list(range(10, 30))


def test_a_rank_without_pairs_has_no_batches() -> None:
    assert validation_batches([([5, 3], [5, 3])], IDS, 24, Share(1, 2)) == []


def test_a_copy_stands_in_for_a_source_that_is_gone(
    make_corpus: Callable[..., CorpusConfig], joint: TokenizerPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(["a tree", "the end"], ["ein Baum", "das Ende"])
    expected = load_validation(corpus, joint)
    copy_validation(corpus, tmp_path / "copies")
    monkeypatch.setattr(validation, "read_pairs", lambda corpus: pytest.fail("read again"))
    copy_validation(corpus, tmp_path / "copies")
    assert load_validation(corpus, joint, tmp_path / "copies") == expected


def test_a_changed_source_is_copied_again(
    make_corpus: Callable[..., CorpusConfig], joint: TokenizerPair, tmp_path: Path
) -> None:
    copy_validation(make_corpus(["a"], ["b"]), tmp_path / "copies")
    corpus = make_corpus(["changed"], ["b"])
    copy_validation(corpus, tmp_path / "copies")
    assert load_validation(corpus, joint, tmp_path / "copies").sources == ["changed"]
