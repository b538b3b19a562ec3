"""The report about a run beforehand is right about what its training data then do."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.inspection.inspect_data import Inspection, inspect
from trainer.data.preparation.build_stores import Prepared
from trainer.data.stores.store import Store
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair

MakeStore = Callable[..., Store]
DATA = DataConfig(
    train=(CorpusConfig(builtin="phrasebook", weight=3.0), CorpusConfig(builtin="phrasebook")),
    max_length=16,
    max_tokens=512,
    micro_batches_per_step=4,
    num_lanes=4,
    window=64,
)


@pytest.fixture
def look(make_store: MakeStore, tokenizer: Tokenizer) -> Callable[..., tuple[Inspection, list[Store]]]:
    """Inspects two random corpora."""

    def run(
        sizes: tuple[int, int] = (300, 500), sampling: float | None = None, **changes: object
    ) -> tuple[Inspection, list[Store]]:
        data = replace(DATA, **changes)  # type: ignore[arg-type]
        kind = "text" if data.mode == "stream" else "tokens"
        stores = [make_store(size, seed=seed, kind=kind) for seed, size in enumerate(sizes)]
        prepared = Prepared(TokenizerPair(tokenizer, tokenizer), tuple(stores), (True, True))
        # Random ids of the token stores stand for no pieces.
        num_examples = 2 if kind == "text" else 0
        return inspect(data, prepared, sampling=sampling, seed=1, num_examples=num_examples), stores

    return run


Look = Callable[..., tuple[Inspection, list[Store]]]


@pytest.mark.parametrize("mode", ["store", "stream"])
def test_micro_batches_are_nearly_full_and_never_over(mode: str, look: Look) -> None:
    mixture = look(mode=mode)[0].mixture
    assert mixture.max_target_tokens == 512
    assert mixture.num_measured == 32
    for fill in (mixture.source_fill, mixture.target_fill, mixture.fill):
        assert 0.8 < fill <= 1
    assert mixture.source_tokens_per_step == pytest.approx(4 * mixture.source_fill * mixture.max_source_tokens)
    assert mixture.target_tokens_per_step == pytest.approx(4 * mixture.target_fill * mixture.max_target_tokens)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_steps_of_a_pass_follow_from_what_a_step_takes_of_each_corpus(temperature: float, look: Look) -> None:
    found, _ = look(temperature=temperature)
    pairs_per_step = 4 * found.mixture.pairs_per_micro_batch
    amounts = np.array([3 * 300.0, 500.0]) ** (1 / temperature)
    assert [corpus.share for corpus in found.corpora] == pytest.approx(amounts / amounts.sum())
    for corpus in found.corpora:
        assert corpus.steps_per_pass * corpus.share * pairs_per_step == pytest.approx(corpus.num_pairs)
    assert found.mixture.num_pairs == 800
    assert found.mixture.steps_per_pass * pairs_per_step == pytest.approx(800)


def test_tokens_per_pass_and_per_step_agree(look: Look) -> None:
    """A corpus alone takes the steps that its tokens make; measured, so only nearly."""
    found, stores = look(train=(CorpusConfig(builtin="phrasebook", weight=1e6), CorpusConfig(builtin="phrasebook")))
    first = found.corpora[0]
    assert first.target.num_tokens == stores[0].manifest.num_target_items
    assert first.steps_per_pass == pytest.approx(
        first.target.num_tokens / found.mixture.target_tokens_per_step, rel=0.1
    )


def test_the_same_run_is_told_the_same(look: Look) -> None:
    assert look(mode="stream")[0] == look(mode="stream")[0]


def test_the_length_bound_counts_in_stream_mode(look: Look) -> None:
    all_kept, _ = look(mode="stream", max_length=64)
    some_kept, _ = look(mode="stream", max_length=10)
    assert all("too long" not in corpus.rejected for corpus in all_kept.corpora)
    assert all(corpus.rejected["too long"] > 0 for corpus in some_kept.corpora)
    assert all(max(corpus.target.lengths.percentiles.values()) <= 10 for corpus in some_kept.corpora)


def test_sampled_segmentations_are_longer(look: Look) -> None:
    best, _ = look(mode="stream", max_length=64)
    drawn, _ = look(mode="stream", max_length=64, sampling=0.1)
    for one, other in zip(best.corpora, drawn.corpora, strict=True):
        assert other.source.num_tokens > one.source.num_tokens
    assert drawn == look(mode="stream", max_length=64, sampling=0.1)[0]


def test_an_inspection_is_a_json_object(look: Look) -> None:
    found = asdict(look(mode="stream")[0])
    assert json.loads(json.dumps(found))["corpora"][0]["examples"][0][0]["ids"][-1] == 3
    assert "NaN" not in json.dumps(found)
