"""Validation during training, shared out over all ranks: loss, and BLEU and chrF of real translations."""

from collections.abc import Sequence
from typing import Any

import torch

from model.transformer import Transformer
from trainer.configuration.sections import EvaluationConfig
from trainer.data.config import DataConfig
from trainer.data.feeding.validation_batches import validation_batches
from trainer.data.order.partition import Partition
from trainer.data.preparation.validation import ValidationSet
from trainer.data.text.tokenizer import TokenizerPair
from trainer.engine.base import Engine
from trainer.inference.model_directory import put_weights
from trainer.inference.scoring import score, sentence_chrf
from trainer.inference.translation import Translator
from trainer.training.stop_request import StopRequest

NUM_SAMPLES = 16


class CutShort(Exception):
    """A stop signal came to some rank during validation; raised on every rank."""


class Evaluator:
    """Evaluates the engine's weights on a plain replica of the model.

    A rank may take as many decoding steps as its sentences need, because nothing in the replica is sharded: there is
    no collective but those of this file, of which every rank makes the same number.
    """

    def __init__(
        self,
        replica: Transformer,
        tokenizers: TokenizerPair,
        sets: Sequence[ValidationSet],
        config: EvaluationConfig,
        data: DataConfig,
    ) -> None:
        self._replica = replica.eval()
        self._tokenizers, self._sets = tokenizers, sets
        self._config, self._data = config, data

    def evaluate(self, engine: Engine, stop: StopRequest) -> list[dict[str, Any]]:
        """One dict for each set, the same on every rank; a collective.

        `name`, `nll` (nats per target token), `num_target_tokens`, `bleu` and `chrf` (None where nothing is
        translated) and `samples`: [source, hypothesis, reference, chrF] of the first sentences.
        Raises CutShort a batch after a stop signal: validation may take minutes, and whoever sent it may not wait.
        """
        self._replica.to(engine.device, self._replica.compute_dtype)
        put_weights(self._replica, engine.full_weights(), "the engine")
        turns = _Turns(engine, stop)
        return [self._evaluate_set(engine, validation, turns) for validation in self._sets]

    def _evaluate_set(self, engine: Engine, validation: ValidationSet, turns: "_Turns") -> dict[str, Any]:
        nll, num_target_tokens = engine.sum(self._nll(engine, validation, turns))
        num_translated = min(self._config.max_sentences, len(validation.sources))
        translated = self._scores(engine, validation, num_translated, turns) if num_translated else {}
        return {
            "name": validation.name,
            "nll": nll / num_target_tokens,
            "num_target_tokens": int(num_target_tokens),
            "bleu": None,
            "chrf": None,
            "samples": [],
        } | translated

    @torch.inference_mode()
    def _nll(self, engine: Engine, validation: ValidationSet, turns: "_Turns") -> list[float]:
        """This rank's sums: nats and target tokens."""
        ids = self._tokenizers.special_ids
        partition = Partition(engine.rank, engine.world_size)
        nll = tokens = 0.0
        for batch in validation_batches(validation.pairs, ids, self._data.max_tokens, partition):
            nll += self._replica(batch.to(engine.device))[1].item()
            tokens += batch.num_target_tokens
            turns.take()
        turns.end()
        return [nll, tokens]

    def _scores(
        self, engine: Engine, validation: ValidationSet, num_translated: int, turns: "_Turns"
    ) -> dict[str, Any]:
        translator = Translator(self._replica, self._tokenizers, self._data.max_length, self._config, engine.device)
        own = validation.sources[engine.rank : num_translated : engine.world_size]
        translated = translator.translate(own, after_batch=turns.take)
        turns.end()
        hypotheses = interleave(engine.gather(translated))
        references = validation.references[:num_translated]
        found = {}
        if engine.rank == 0:
            scores = score(hypotheses, [references])
            triples = list(zip(validation.sources, hypotheses, references, strict=False))[:NUM_SAMPLES]
            samples = [[*triple, sentence_chrf(*triple[1:])] for triple in triples]
            found = {"bleu": scores.bleu, "chrf": scores.chrf, "samples": samples}
        return engine.gather(found)[0]


class _Turns:
    """Where the ranks agree, batch by batch, whether to go on, though some have more batches than others.

    Each takes a turn after each of its batches, and at the end as many more as the others still need.
    """

    def __init__(self, engine: Engine, stop: StopRequest) -> None:
        self._engine, self._stop = engine, stop

    def take(self) -> None:
        """After a batch."""
        self._meet(working=True)

    def end(self) -> None:
        """After the last batch; returns when all ranks have come to their end."""
        while self._meet(working=False):
            pass

    def _meet(self, working: bool) -> bool:
        """Whether any rank is at work."""
        stopping, num_working = self._engine.sum([self._stop.reason is not None, working])
        if stopping:
            raise CutShort
        return num_working > 0


def interleave(shares: Sequence[Sequence[str]]) -> list[str]:
    """Puts back in order what was dealt out in turn: item i comes from share i mod W."""
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]
