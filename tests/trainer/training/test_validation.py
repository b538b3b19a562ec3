"""Evaluation over several ranks is evaluation by one, and its numbers are those of the parts it is made of."""

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.transformer import Transformer
from tests.limits import patience
from tests.trainer.conftest import TinyRun, sentences
from trainer.configuration.sections import EvaluationConfig
from trainer.data.feeding.validation_batches import validation_batches
from trainer.data.order.partition import Partition
from trainer.data.preparation.validation import ValidationSet
from trainer.inference.scoring import score
from trainer.inference.translation import Translator
from trainer.run_directory.stop_reason import STOP_SIGNALS, StopReason
from trainer.training.stop_request import StopRequest
from trainer.training.validation import NUM_SAMPLES, CutShort, ValidationResult, Validator, interleave


class ThreadEngine:
    """One rank of several that are threads of this process: gathers meet at a barrier."""

    device = torch.device("cpu")

    def __init__(self, rank: int, model: Transformer, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        self.rank, self.world_size = rank, barrier.parties
        self._model, self._barrier, self._board = model, barrier, board
        self.num_collectives = 0
        self.on_collective: Callable[[int], None] = lambda number: None

    def gather(self, value: Any) -> list[Any]:
        self.num_collectives += 1
        self.on_collective(self.num_collectives)
        self._board[self.rank] = value
        self._barrier.wait()
        values = [self._board[rank] for rank in range(self.world_size)]
        self._barrier.wait()
        return values

    def sum(self, values: Sequence[float]) -> list[float]:
        return [math.fsum(column) for column in zip(*self.gather(list(values)), strict=True)]

    def full_weights(self) -> dict[str, Tensor]:
        self.gather(None)
        return {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}


def validation_set(run: TinyRun, size: int, name: str = "val") -> ValidationSet:
    sources, references = sentences(size, seed=11), sentences(size, seed=12)
    sides = ((run.tokenizers.source, sources), (run.tokenizers.target, references))
    encoded = [[[*ids, tokenizer.eos_id] for ids in tokenizer.encode(lines)] for tokenizer, lines in sides]
    return ValidationSet(name, sources, references, list(zip(*encoded, strict=True)))


def on_ranks(world_size: int, model: Transformer, work: Callable[[ThreadEngine], Any]) -> list[Any]:
    barrier, board = threading.Barrier(world_size, timeout=patience(60)), dict[int, Any]()
    engines = [ThreadEngine(rank, model, barrier, board) for rank in range(world_size)]
    results: list[Any] = [None] * world_size

    def run(engine: ThreadEngine) -> None:
        results[engine.rank] = work(engine)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({engine.num_collectives for engine in engines}) == 1, "ranks made different numbers of collective calls"
    return results


def validate(
    run: TinyRun, world_size: int, sets: list[ValidationSet], config: EvaluationConfig
) -> list[list[ValidationResult]]:
    """Each rank's results; the replicas start from other weights than the engine's."""

    def work(engine: ThreadEngine) -> Any:
        replica = run.model(seed=99)
        validator = Validator(replica, run.tokenizers, sets, config, run.config.data)
        return validator.validate(engine, StopRequest())  # type: ignore[arg-type]

    return on_ranks(world_size, run.model(seed=1), work)


CONFIG = EvaluationConfig(beam_size=2, max_sentences=7)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_find_what_one_finds(tiny_run: TinyRun, world_size: int) -> None:
    sets = [validation_set(tiny_run, 11), validation_set(tiny_run, 2, "small")]
    [alone] = validate(tiny_run, 1, sets, CONFIG)
    together = validate(tiny_run, world_size, sets, CONFIG)
    assert all(results == together[0] for results in together)
    for found, expected in zip(together[0], alone, strict=True):
        assert found.nll == pytest.approx(expected.nll, rel=1e-5)
        assert replace(found, nll=0.0) == replace(expected, nll=0.0)


@pytest.mark.parametrize("tokenizers", ["tiny_run", "separate_run"])
def test_the_numbers_are_those_of_its_parts(tokenizers: str, request: pytest.FixtureRequest) -> None:
    run: TinyRun = request.getfixturevalue(tokenizers)
    validation, model = validation_set(run, 11), run.model(seed=1)
    [[found]] = validate(run, 1, [validation], CONFIG)
    hypotheses = Translator(model, run.tokenizers, 24, CONFIG).translate(validation.sources[:7])
    scores = score(hypotheses, [validation.references[:7]])
    assert (found.name, found.bleu, found.chrf) == ("val", scores.bleu, scores.chrf)
    texts = list(zip(validation.sources, hypotheses, validation.references[:7], strict=False))[:NUM_SAMPLES]
    assert [tuple(sample[:3]) for sample in found.samples] == texts
    assert [sample[3] for sample in found.samples] == [score([h], [[r]]).chrf for _, h, r in texts]

    ids = run.tokenizers.special_ids
    each = [validation_batches([pair], ids, 64, 64, Partition(0, 1))[0] for pair in validation.pairs]
    with torch.no_grad():
        nll = sum(model(batch)[1].item() for batch in each)
    num_target_tokens = sum(len(target) for _, target in validation.pairs)
    assert found.num_target_tokens == num_target_tokens
    assert found.nll == pytest.approx(nll / num_target_tokens, rel=1e-5)


def test_without_sentences_to_translate_only_the_loss_is_taken(tiny_run: TinyRun) -> None:
    [[found]] = validate(tiny_run, 1, [validation_set(tiny_run, 5)], EvaluationConfig(max_sentences=0))
    assert found.nll > 0
    assert (found.bleu, found.chrf, found.samples) == (None, None, [])


@pytest.mark.parametrize("moment", [2, 4, 9])
def test_a_signal_to_one_rank_cuts_it_short_on_all(tiny_run: TinyRun, moment: int) -> None:
    """In the loss, between it and the translations, and in those; ranks have different numbers of batches."""

    def work(engine: ThreadEngine) -> int:
        stop = StopRequest()

        def receive(number: int) -> None:
            if engine.rank == 1 and number == moment:
                stop.reason = StopReason.SIGTERM

        engine.on_collective = receive
        validator = Validator(
            tiny_run.model(seed=99), tiny_run.tokenizers, [validation_set(tiny_run, 400)],
            EvaluationConfig(beam_size=1, max_sentences=400), tiny_run.config.data,
        )  # fmt: skip
        with pytest.raises(CutShort):
            validator.validate(engine, stop)  # type: ignore[arg-type]
        return engine.num_collectives

    assert set(on_ranks(3, tiny_run.model(seed=1), work)) <= {moment, moment + 1}


def test_interrupted_twice_it_stops_at_once(tiny_run: TinyRun) -> None:
    before, stop = signal.getsignal(signal.SIGINT), StopRequest()
    engine = ThreadEngine(0, tiny_run.model(seed=1), threading.Barrier(1), {})
    validator = Validator(
        tiny_run.model(seed=99), tiny_run.tokenizers, [validation_set(tiny_run, 9)], CONFIG, tiny_run.config.data
    )

    def twice() -> dict[str, Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one should have ended it")

    engine.full_weights = twice  # type: ignore[method-assign]
    stop.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            validator.validate(engine, stop)  # type: ignore[arg-type]
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_interleave_undoes_dealing_out(count: int) -> None:
    items = [str(i) for i in range(count)]
    assert interleave([items[rank::3] for rank in range(3)]) == items
