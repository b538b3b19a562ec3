"""The largest batches of a validation, computed before the first step, so that too little memory is reported then."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, NoReturn

import torch
from torch import Tensor

from model.batch import PackedBatch
from model.search import SearchableModel, SearchConfig
from model.transformer import Transformer
from trainer.data.config import DataConfig
from trainer.data.feeding.validation_batches import validation_batches
from trainer.data.order.partition import Partition
from trainer.data.preparation.validation import ValidationSet
from trainer.data.text.tokenizer import SpecialIds
from trainer.engine.base import Engine
from trainer.engine.out_of_memory import is_out_of_memory
from trainer.errors import UserError, error_line
from trainer.inference.translation import Translator

_NUM_STEPS = 2  # of a search: after the first one the beams are reordered, which copies the prefix


@torch.inference_mode()
def rehearse_loss(
    replica: Transformer,
    validation: ValidationSet,
    ids: SpecialIds,
    data: DataConfig,
    partition: Partition,
    device: torch.device,
) -> None:
    """Computes the loss of the batches of this rank that take the most memory. Raises UserError if they do not fit."""

    def compute(max_tokens: int) -> None:
        for batch in _largest(validation_batches(validation.pairs, ids, max_tokens, data.max_length, partition)):
            replica(batch.to(device))

    found = _first_that_fits(compute, _halves(data.max_tokens, data.max_length))
    if found is None:
        return
    fitting, error = found
    remedy = f"set `data.max_tokens` to {fitting}" if fitting else "choose a smaller model"
    raise UserError(
        f"the loss of {validation.name} in batches of `data.max_tokens` ({data.max_tokens}) does not fit into the "
        f"memory of rank {partition.rank} ({error_line(error, with_type=False)}): {remedy}."
    ) from error


def rehearse_translation(
    replica: Transformer,
    make: Callable[[SearchableModel], Translator],
    beam_size: int,
    sources: Sequence[str],
    name: str,
    engine: Engine,
) -> None:
    """Searches for the longest translation of the longest sentences. Raises UserError if that does not fit.

    `make` returns the translator that the validation uses, for another model.
    """
    translator = make(_LongestPrefix(replica))

    def compute(size: int) -> None:
        with suppress(_Enough):
            translator.translate(sources, size, after_batch=_stop)

    found = _first_that_fits(compute, _halves(beam_size, 1))
    if found is None:
        return
    fitting, error = found
    remedy = f"set `evaluation.beam_size` to {fitting}" if fitting else "set `evaluation.max_sentences` to 0"
    raise UserError(
        f"translating {name} with `evaluation.beam_size` {beam_size} does not fit into the memory of rank "
        f"{engine.rank} ({error_line(error, with_type=False)}): {remedy}."
    ) from error


class _LongestPrefix:
    """A model that starts each search with the longest prefix there can be, and ends it after two steps.

    An untrained model ends no sentence, so a whole search would take minutes; its last steps take the most memory.
    """

    def __init__(self, replica: Transformer) -> None:
        self._replica = replica
        self._longest = self._steps = 0

    def encode(self, source_S: Tensor, source_positions_S: Tensor, source_cu: Tensor, max_source_length: int) -> Tensor:
        return self._replica.encode(source_S, source_positions_S, source_cu, max_source_length)

    def start_decoding(self, memory_SD: Tensor, source_cu: Tensor, max_source_length: int) -> Any:
        self._longest, self._steps = max_source_length + SearchConfig.max_extra_tokens, 0
        return self._replica.start_decoding(memory_SD, source_cu, max_source_length)

    def decode_step(self, tokens_B: Tensor, state: Any) -> Tensor:
        if self._steps == 0:
            state.skip_to(self._longest - _NUM_STEPS)
        if self._steps == _NUM_STEPS:
            raise _Enough
        self._steps += 1
        return self._replica.decode_step(tokens_B, state)


class _Enough(Exception):
    """Ends a translation that has taken the memory it takes at most."""


def _stop() -> NoReturn:
    raise _Enough


def _largest(batches: Sequence[PackedBatch]) -> list[PackedBatch]:
    """Those with the most target tokens and with the largest attention if all sentences are padded to the longest."""
    if not batches:
        return []
    by_tokens = max(batches, key=lambda batch: batch.num_target_tokens)
    by_square = max(batches, key=_padded_square)
    return [by_tokens] if by_square is by_tokens else [by_tokens, by_square]


def _padded_square(batch: PackedBatch) -> int:
    longest = max(int(batch.source_cu.diff().max()), int(batch.target_cu.diff().max()))
    return longest**2 * (len(batch.source_cu) - 1)


def _halves(largest: int, smallest: int) -> Iterator[int]:
    """The largest, half of it, and so on, down to the smallest."""
    return takewhile(lambda value: value >= smallest, (largest >> number for number in range(largest.bit_length())))


def _first_that_fits(compute: Callable[[int], None], sizes: Iterator[int]) -> tuple[int | None, Exception] | None:
    """Tries the sizes in turn. Returns None if the first one fits, otherwise the one that does and the first error."""
    first_error: Exception | None = None
    for size in sizes:
        try:
            compute(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            first_error = first_error or error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            return (size, first_error) if first_error else None
    assert first_error is not None
    return None, first_error
