"""Validation during training, shared out over all ranks: loss, and BLEU and chrF of real translations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from model.search import SearchableModel
from model.transformer import Transformer
from trainer.configuration.sections import EvaluationConfig
from trainer.data.config import DataConfig
from trainer.data.feeding.validation_batches import validation_batches
from trainer.data.order.partition import Partition
from trainer.data.preparation.validation import ValidationSet
from trainer.data.text.tokenizer import TokenizerPair
from trainer.engine.base import Engine
from trainer.engine.out_of_memory import is_out_of_memory
from trainer.errors import UserError, error_line
from trainer.inference.model_directory import put_weights
from trainer.inference.scoring import check_tokenize, score, sentence_chrf, tokenize_warning
from trainer.inference.translation import Translator
from trainer.reporting.console import Sample
from trainer.training.long_pairs import cut_long_pairs, describe_cut, longest_allowed
from trainer.training.stop_request import StopRequest
from trainer.training.validation_rehearsal import rehearse_loss, rehearse_translation

NUM_SAMPLES = 16


class CutShort(Exception):
    """A rank received a stop signal during validation. Raised on every rank."""


@dataclass(frozen=True)
class ValidationResult:
    """One validation set, the same on every rank.

    `nll` is in nats per target token. `bleu` and `chrf` are None, and there are no `samples`, if nothing was
    translated.
    """

    name: str
    nll: float
    num_target_tokens: int
    bleu: float | None = None
    chrf: float | None = None
    samples: Sequence[Sample] = field(default_factory=list)

    def score(self, metric: str) -> float:
        """The value by which checkpoints are compared; higher is better."""
        return -self.nll if metric == "nll" else float(getattr(self, metric))

    def record(self) -> dict[str, Any]:
        """Its part of a `valid` record."""
        return asdict(self) | {"samples": [sample._asdict() for sample in self.samples]}


class Validator:
    """Validates the engine's weights on a plain replica of the model.

    Nothing in the replica is sharded, so each rank may take as many decoding steps as its sentences need. The only
    collectives are those of this file, and every rank makes the same number of them.

    `notices` say which validation pairs were cut because they are too long, a sentence per set. `score_warning` says
    that BLEU means little for the text of a set.
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
        self._tokenizers = tokenizers
        self._config, self._data = config, data
        self._translator: Translator | None = None
        self._sets: list[ValidationSet] = []
        self.notices: list[str] = []
        self.score_warning: str | None = None
        if config.max_sentences:
            check_tokenize(config.tokenize)
            warnings = (tokenize_warning(config.tokenize, whole.references[: config.max_sentences]) for whole in sets)
            self.score_warning = next(filter(None, warnings), None)
        for whole in sets:
            validation, lines = cut_long_pairs(whole, tokenizers, longest_allowed(data))
            self._sets.append(validation)
            if lines:
                self.notices.append(describe_cut(whole.name, lines, longest_allowed(data)))

    def validate(self, engine: Engine, stop: StopRequest) -> list[ValidationResult]:
        """One result per set; a collective.

        Raises CutShort a batch after a stop signal, because a validation can take minutes. Raises UserError, on the
        rank concerned, if memory runs out.
        """
        self._take_weights(engine)
        turns = _Turns(engine, stop)
        return [self._validate_set(engine, validation, turns) for validation in self._sets]

    def make_room(self, device: torch.device) -> None:
        """Allocates the replica on the device. Not a collective."""
        self._replica.to(device, self._replica.compute_dtype)

    def rehearse(self, engine: Engine) -> None:
        """Computes the largest batches of a validation, the loss and the translation of the longest sentences.

        Changes nothing; a collective. Raises UserError, on the rank concerned, if they do not fit into its memory.
        """
        self._take_weights(engine)
        partition = Partition(engine.rank, engine.world_size)
        for validation in self._sets:
            rehearse_loss(self._replica, validation, self._tokenizers.special_ids, self._data, partition, engine.device)
            if self._config.max_sentences:
                make = partial(self._make_translator, engine.device, quiet=True)
                rehearse_translation(
                    self._replica,
                    make,
                    self._config.beam_size,
                    self._own_sources(engine, validation),
                    validation.name,
                    engine,
                )

    def _take_weights(self, engine: Engine) -> None:
        self.make_room(engine.device)
        put_weights(self._replica, engine.full_weights(), "the engine")

    def _validate_set(self, engine: Engine, validation: ValidationSet, turns: "_Turns") -> ValidationResult:
        with _naming_the_longest(engine, validation):
            own = self._nll(engine, validation, turns)
        nll, num_target_tokens = engine.sum(own)
        translated = self._translate(engine, validation, turns) if self._config.max_sentences else {}
        return ValidationResult(validation.name, nll / num_target_tokens, int(num_target_tokens), **translated)

    @torch.inference_mode()
    def _nll(self, engine: Engine, validation: ValidationSet, turns: "_Turns") -> list[float]:
        """This rank's sums: nats and target tokens."""
        ids, data = self._tokenizers.special_ids, self._data
        partition = Partition(engine.rank, engine.world_size)
        nll = tokens = 0.0
        for batch in validation_batches(validation.pairs, ids, data.max_tokens, data.max_length, partition):
            nll += self._replica(batch.to(engine.device))[1].item()
            tokens += batch.num_target_tokens
            turns.take()
        turns.end()
        return [nll, tokens]

    def _translate(self, engine: Engine, validation: ValidationSet, turns: "_Turns") -> dict[str, Any]:
        """BLEU, chrF and samples of the first sentences, by the names of `ValidationResult`."""
        with _naming_the_longest(engine, validation):
            self._translator = self._translator or self._make_translator(engine.device, self._replica)
            translated = self._translator.translate(self._own_sources(engine, validation), after_batch=turns.take)
        turns.end()
        hypotheses = interleave(engine.gather(translated))
        references = validation.references[: len(hypotheses)]
        found: dict[str, Any] = {}
        if engine.rank == 0:
            scores = score(hypotheses, [references], self._config.tokenize)
            triples = list(zip(validation.sources, hypotheses, references, strict=False))[:NUM_SAMPLES]
            samples = [[*triple, sentence_chrf(*triple[1:])] for triple in triples]
            found = {"bleu": scores.bleu, "chrf": scores.chrf, "samples": samples}
        found = engine.gather(found)[0]
        return found | {"samples": [Sample(*sample) for sample in found["samples"]]}

    def _make_translator(self, device: torch.device, model: SearchableModel, quiet: bool = False) -> Translator:
        return Translator(model, self._tokenizers, self._data.max_length, self._config, device, quiet)

    def _own_sources(self, engine: Engine, validation: ValidationSet) -> list[str]:
        """The sentences that this rank translates."""
        num_translated = min(self._config.max_sentences, len(validation.sources))
        return validation.sources[engine.rank : num_translated : engine.world_size]


@contextmanager
def _naming_the_longest(engine: Engine, validation: ValidationSet) -> Iterator[None]:
    """Raises UserError, with the set and its longest line, in place of an error that means that memory ran out."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lengths = [max(len(source), len(target)) for source, target in validation.pairs]
        longest = max(lengths)
        raise UserError(
            f"validation on {validation.name} ran out of memory on rank {engine.rank} "
            f"({error_line(error, with_type=False)}); its longest pair is line {lengths.index(longest) + 1} with "
            f"{longest} tokens: remove it, or set a smaller `evaluation.beam_size` or `data.max_tokens`, or "
            "`evaluation.max_sentences` 0."
        ) from error


class _Turns:
    """How the ranks agree, batch by batch, whether to continue, although some have more batches than others.

    Each rank takes a turn after each of its batches, and after its last one as many turns as the others still need.
    """

    def __init__(self, engine: Engine, stop: StopRequest) -> None:
        self._engine, self._stop = engine, stop

    def take(self) -> None:
        """After a batch."""
        self._meet(working=True)

    def end(self) -> None:
        """After the last batch. Returns when all ranks have done theirs."""
        while self._meet(working=False):
            pass

    def _meet(self, working: bool) -> bool:
        """Returns whether any rank still has batches."""
        stopping, num_working = self._engine.sum([self._stop.reason is not None, working])
        if stopping:
            raise CutShort
        return num_working > 0


def interleave(parts: Sequence[Sequence[str]]) -> list[str]:
    """Puts back in order what was dealt out in turn: item i comes from part i mod W."""
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]
