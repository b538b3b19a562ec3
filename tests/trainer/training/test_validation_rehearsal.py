"""Before the first step the largest batches of a validation are tried; if they do not fit, one that does is named."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.decoding import DecoderState
from model.transformer import Transformer
from tests.engines import FakeEngine
from tests.trainer.conftest import TinyRun, sentences
from trainer.configuration.sections import EvaluationConfig
from trainer.data.preparation.validation import ValidationSet
from trainer.errors import UserError
from trainer.training.long_pairs import cut_long_pairs, describe_cut, longest_allowed
from trainer.training.stop_request import StopRequest
from trainer.training.validation import Validator

CONFIG = EvaluationConfig(beam_size=4, max_sentences=50)
GONE = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def validation_set(run: TinyRun, *more: str) -> ValidationSet:
    texts = [*sentences(20, seed=3), *more]
    ids = [[*ids, run.tokenizers.source.eos_id] for ids in run.tokenizers.source.encode(texts)]
    return ValidationSet("val", texts, list(texts), [(i, i) for i in ids])


def validator(run: TinyRun, model: Transformer, *more: str) -> Validator:
    return Validator(model, run.tokenizers, [validation_set(run, *more)], CONFIG, run.config.data)


def test_the_rehearsed_prefix_is_the_longest_there_can_be(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a whole search by a model that never ends a sentence."""
    model = tiny_run.model(seed=1)
    seen: list[tuple[int, int]] = []
    step = Transformer.decode_step

    def watched(self: Transformer, tokens_B: Tensor, state: DecoderState) -> Tensor:
        logits_BV = step(self, tokens_B, state)
        logits_BV[:, tiny_run.tokenizers.target.eos_id] = -1e4
        seen.append((state.num_rows, state.length))
        return logits_BV

    monkeypatch.setattr(Transformer, "decode_step", watched)
    found = validator(tiny_run, model)
    found.rehearse(FakeEngine(model))  # type: ignore[arg-type]
    rehearsed, seen[:] = [max(numbers) for numbers in zip(*seen, strict=True)], []
    found.validate(FakeEngine(model), StopRequest())  # type: ignore[arg-type]
    assert rehearsed == [max(numbers) for numbers in zip(*seen, strict=True)], "rows and length"


def test_a_rehearsal_changes_nothing_that_a_validation_finds(tiny_run: TinyRun) -> None:
    model = tiny_run.model(seed=1)
    first, second = validator(tiny_run, tiny_run.model(seed=2)), validator(tiny_run, tiny_run.model(seed=2))
    first.rehearse(FakeEngine(model))  # type: ignore[arg-type]
    results = [v.validate(FakeEngine(model), StopRequest()) for v in (first, second)]  # type: ignore[arg-type]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("rows", "remedy"), [(16, "set `evaluation.beam_size` to 2"), (1, "set `evaluation.max_sentences` to 0")]
)
def test_a_beam_that_does_not_fit_is_refused_with_one_that_does(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, rows: int, remedy: str
) -> None:
    step = Transformer.decode_step

    def limited(self: Transformer, tokens_B: Tensor, state: Any) -> Tensor:
        if tokens_B.numel() > rows:
            raise GONE
        return step(self, tokens_B, state)

    monkeypatch.setattr(Transformer, "decode_step", limited)
    monkeypatch.setattr("trainer.inference.translation.MAX_BATCH_TOKENS", 150)
    model = tiny_run.model(seed=1)
    with pytest.raises(UserError) as caught:
        validator(tiny_run, model).rehearse(FakeEngine(model))  # type: ignore[arg-type]
    for words in ("translating val with `evaluation.beam_size` 4", "rank 0", "can't allocate memory", remedy):
        assert words in str(caught.value)


@pytest.mark.parametrize(("room", "remedy"), [(40, "set `data.max_tokens` to 32"), (1, "choose a smaller model")])
def test_a_budget_that_does_not_fit_is_refused_with_one_that_does(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, room: int, remedy: str
) -> None:
    forward = Transformer.forward

    def limited(self: Transformer, batch: Any, *more: Any) -> Any:
        if batch.num_target_tokens > room:
            raise GONE
        return forward(self, batch, *more)

    monkeypatch.setattr(Transformer, "forward", limited)
    model = tiny_run.model(seed=1)
    with pytest.raises(UserError, match=remedy) as caught:
        validator(tiny_run, model).rehearse(FakeEngine(model))  # type: ignore[arg-type]
    assert "the loss of val in batches of `data.max_tokens` (64)" in str(caught.value)
    with pytest.raises(
        UserError, match=r"validation on val ran out of memory on rank 0 .* longest pair is line \d+ with"
    ):
        validator(tiny_run, model).validate(FakeEngine(model), StopRequest())  # type: ignore[arg-type]


def test_a_very_long_pair_is_cut_and_named(tiny_run: TinyRun) -> None:
    """Its square of attention is no larger than that of a training micro-batch."""
    limit, long = longest_allowed(tiny_run.config.data), " ".join(sentences(300, seed=4))
    assert limit**2 <= 64 * 24 < (limit + 1) ** 2
    found = validator(tiny_run, tiny_run.model(seed=1), long)
    assert found.notices == [describe_cut("val", [21], limit)]
    assert "line 21 of val" in found.notices[0]
    whole = validation_set(tiny_run, long, "Ja.", long)
    cut, lines = cut_long_pairs(whole, tiny_run.tokenizers, limit)
    assert lines == [21, 23]
    assert [len(side) for side in cut.pairs[20]] == [limit, limit]
    assert cut.pairs[20][0][-1] == tiny_run.tokenizers.source.eos_id
    assert long.startswith(cut.sources[20])
    assert (cut.pairs[:20], cut.pairs[21]) == (whole.pairs[:20], whole.pairs[21])
    assert cut_long_pairs(validation_set(tiny_run), tiny_run.tokenizers, limit)[1] == []
    assert "and so is" not in describe_cut("val", [3], limit)


def test_the_longest_sentence_counts_against_the_square(tiny_run: TinyRun) -> None:
    data = replace(tiny_run.config.data, max_tokens=4096, max_length=256)
    assert longest_allowed(data) == 1024
    assert torch.tensor(1024) ** 2 == 4096 * 256
