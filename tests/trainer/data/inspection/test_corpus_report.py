"""The report about a corpus has what a reader of its whole store would count."""

from pathlib import Path

import numpy as np
import pytest

from trainer.data.config import TokenizerConfig
from trainer.data.inspection import corpus_report
from trainer.data.inspection.corpus_report import CorpusReport, CorpusSample
from trainer.data.stores.store import TEXT_DTYPE, Store, token_dtype, writing_store
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizer
from trainer.errors import UserError

NUM_PAIRS = 60
# Longer and longer, the target a little longer than the source.
SOURCES = [" ".join(f"word{n % 7}" for _ in range(1 + n // 12)) for n in range(NUM_PAIRS)]
TARGETS = [f"{source} Ende" for source in SOURCES]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(SOURCES + TARGETS), TokenizerConfig(vocab_size=280, kind="bpe"))


def text_side(texts: list[str]) -> Side:
    lines = [text.encode() for text in texts]
    return Side(np.frombuffer(b"".join(lines), np.uint8), np.array([len(line) for line in lines]))


@pytest.fixture
def stores(tmp_path: Path, tokenizer: Tokenizer) -> dict[str, Store]:
    """The same pairs as text and as tokens."""
    rejected = {"copy": 2}, {"copy": [["same", "same"]]}
    for kind, dtype in (("text", TEXT_DTYPE), ("tokens", token_dtype(tokenizer.vocab_size))):
        encode = text_side if kind == "text" else tokenizer.encode_side
        with writing_store(tmp_path / kind, dtype) as writer:
            writer.append(encode(SOURCES), encode(TARGETS))
            writer.finish("small", "fingerprint", *rejected)
    opened = {kind: Store.open(tmp_path / kind) for kind in ("text", "tokens")}
    return {kind: store for kind, store in opened.items() if store is not None}


def report(store: Store, tokenizer: Tokenizer, *, max_length: int = 1000, num_examples: int = 3) -> CorpusReport:
    pair = TokenizerPair(tokenizer, tokenizer)
    encoder = PairEncoder(pair, max_length) if store.manifest.kind == "text" else None
    return CorpusSample(store, encoder).report(pair, 0.5, 7.0, num_examples)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_tokens_lengths_and_ratio_are_those_of_the_pairs(
    kind: str, stores: dict[str, Store], tokenizer: Tokenizer
) -> None:
    found = report(stores[kind], tokenizer)
    source, target = (np.array([len(ids) + 1 for ids in tokenizer.encode(side)]) for side in (SOURCES, TARGETS))
    assert (found.num_pairs, found.num_sampled) == (NUM_PAIRS, NUM_PAIRS)
    assert (found.source.num_tokens, found.target.num_tokens) == (source.sum(), target.sum())
    assert found.source.lengths.mean == pytest.approx(source.mean())
    assert found.target.lengths.percentiles["50"] == np.median(target)
    assert found.ratio.mean == pytest.approx((target / source).mean())
    assert found.is_estimate == (kind == "text")
    assert found.rejected == {"copy": 2}
    assert found.rejected_examples == {"copy": [("same", "same")]}
    assert (found.share, found.steps_per_pass) == (0.5, 7.0)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_the_histogram_counts_every_sentence_in_the_bin_of_its_length(
    kind: str, stores: dict[str, Store], tokenizer: Tokenizer
) -> None:
    found = report(stores[kind], tokenizer)
    lengths = [len(ids) + 1 for ids in tokenizer.encode(SOURCES)]
    width, bins = found.source.bin_width, len(found.source.histogram)
    assert found.target.bin_width == width
    assert sum(found.source.histogram) == pytest.approx(1)
    for number, share in enumerate(found.source.histogram[:-1]):
        inside = sum(number * width < length <= (number + 1) * width for length in lengths)
        assert share == pytest.approx(inside / NUM_PAIRS)
    longer = sum(length > (bins - 1) * width for length in lengths)
    assert found.source.histogram[-1] == pytest.approx(longer / NUM_PAIRS)
    assert longer <= NUM_PAIRS / 100


def test_the_examples_are_spread_over_the_corpus_and_alike_in_both_modes(
    stores: dict[str, Store], tokenizer: Tokenizer
) -> None:
    found = report(stores["text"], tokenizer).examples
    assert found == report(stores["tokens"], tokenizer).examples
    assert [source.text for source, _ in found] == [SOURCES[n] for n in (10, 30, 50)]
    for side in found[1]:
        assert side.ids[-1] == tokenizer.eos_id
        assert "".join(side.pieces).replace("▁", " ") == f" {side.text}</s>"
        assert len(side.pieces) == len(side.ids)


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (1000, NUM_PAIRS)])
def test_as_many_examples_as_there_are(asked: int, given: int, stores: dict[str, Store], tokenizer: Tokenizer) -> None:
    assert len(report(stores["tokens"], tokenizer, num_examples=asked).examples) == given


def test_pairs_of_a_text_store_that_are_too_long_are_counted_and_shown(
    stores: dict[str, Store], tokenizer: Tokenizer
) -> None:
    target = [len(ids) + 1 for ids in tokenizer.encode(TARGETS)]
    bound = int(np.median(target))
    found = report(stores["text"], tokenizer, max_length=bound)
    too_long = [n for n, length in enumerate(target) if length > bound]
    assert 0 < len(too_long) < NUM_PAIRS
    assert found.rejected == {"copy": 2, "too long": len(too_long)}
    assert found.rejected_examples["too long"] == [(SOURCES[n], TARGETS[n]) for n in too_long[:3]]
    assert found.target.num_tokens == sum(length for length in target if length <= bound)


def test_a_text_store_without_a_short_enough_pair_is_refused(stores: dict[str, Store], tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"the corpus small has no pair within `data.max_length` tokens"):
        report(stores["text"], tokenizer, max_length=2)


def test_a_sample_stands_for_the_whole(
    stores: dict[str, Store], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = report(stores["tokens"], tokenizer)
    monkeypatch.setattr(corpus_report, "_SAMPLE_OF_TOKENS", 20)
    monkeypatch.setattr(corpus_report, "_SAMPLE_OF_TEXT", 20)
    for kind in ("text", "tokens"):
        found = report(stores[kind], tokenizer)
        assert found.num_sampled == 20
        assert found.source.num_tokens == pytest.approx(whole.source.num_tokens, rel=0.1)
        assert found.ratio.mean == pytest.approx(whole.ratio.mean, rel=0.1)
    assert report(stores["tokens"], tokenizer).source.num_tokens == whole.source.num_tokens
