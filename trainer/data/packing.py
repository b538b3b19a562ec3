"""Whole sentence pairs, concatenated into micro-batches within a token budget.

Shape suffixes: N sentences, S source tokens, T target tokens, L tokens of either side.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.batch import PackedBatch
from trainer.data.sentences import IntArray, Side, token_index

_MULTIPLE = 64


@dataclass(frozen=True)
class SpecialIds:
    """The ids that packing itself writes."""

    pad_id: int
    bos_id: int


@dataclass(frozen=True)
class Budget:
    """What a micro-batch may hold: real tokens of either side (eos included) and sentences.

    `max_length` bounds each sentence. Each side's budget holds at least one sentence of that length.
    """

    max_source_tokens: int
    max_target_tokens: int
    max_sentences: int
    max_length: int

    def __post_init__(self) -> None:
        assert min(self.max_source_tokens, self.max_target_tokens) >= self.max_length, "one pair must always fit"

    @property
    def num_filler_sentences(self) -> int:
        """Enough sentences of at most `max_length` tokens to fill an empty batch, one token to each in a full one."""
        return -(-(max(self.max_source_tokens, self.max_target_tokens) + _MULTIPLE) // (self.max_length - 1))

    def static_tokens(self, max_tokens: int) -> int:
        """Length of a filled side: the budget and one token per filler sentence, in whole tiles of 64."""
        return -(-(max_tokens + self.num_filler_sentences) // _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass.

    `index` counts the micro-batches of the run, `lane` is where the pairs come from, `seed` (63 bits, from the run's
    seed and the index) is for dropout. `pair_ids` tells which pairs: corpus_N (place in `data.train`) and row_N
    (place in that corpus's store).
    """

    batch: PackedBatch
    index: int
    lane: int
    seed: int
    pair_ids: tuple[IntArray, IntArray]

    @property
    def num_target_tokens(self) -> int:
        return self.batch.num_target_tokens

    @property
    def num_pairs(self) -> int:
        """Real pairs, filler not counted."""
        return len(self.pair_ids[0])


def pack(source: Side, target: Side, ids: SpecialIds, static: Budget | None = None) -> PackedBatch:
    """The packed batch of N pairs; with `static`, filled up to one shape per run.

    Filler is at most `max_length` tokens a sentence and at least one on both sides, so that attention always has
    something to attend to; sentence slots that are left over have no tokens on either side.
    """
    num_target_tokens = len(target.token_L)
    if static is not None:
        source, target = (_filled(side, n, static, ids.pad_id) for side, n in _static_sizes(source, target, static))
    source_cu, target_cu = _cu(source.length_N), _cu(target.length_N)
    target_out_T = target.token_L.astype(np.int64)
    target_in_T = np.empty_like(target_out_T)
    target_in_T[1:] = target_out_T[:-1]
    first_N = target_cu[:-1][target.length_N > 0]
    # Filler sentences are left alone: they are padding throughout, and nobody reads them.
    target_in_T[first_N] = np.where(target_out_T[first_N] == ids.pad_id, ids.pad_id, ids.bos_id)
    return PackedBatch(
        source_S=torch.from_numpy(source.token_L.astype(np.int64)),
        source_positions_S=_positions(source.length_N),
        source_cu=torch.from_numpy(source_cu.astype(np.int32)),
        target_in_T=torch.from_numpy(target_in_T),
        target_out_T=torch.from_numpy(target_out_T),
        target_positions_T=_positions(target.length_N),
        target_cu=torch.from_numpy(target_cu.astype(np.int32)),
        max_source_length=static.max_length if static else int(source.length_N.max()),
        max_target_length=static.max_length if static else int(target.length_N.max()),
        num_target_tokens=num_target_tokens,
    )


def _static_sizes(source: Side, target: Side, budget: Budget) -> tuple[tuple[Side, int], tuple[Side, int]]:
    source_tokens = budget.static_tokens(budget.max_source_tokens)
    return (source, source_tokens), (target, budget.static_tokens(budget.max_target_tokens))


def _filled(side: Side, num_tokens: int, budget: Budget, pad_id: int) -> Side:
    missing = num_tokens - len(side.token_L)
    num_slots = budget.max_sentences + budget.num_filler_sentences
    length_N = np.zeros(num_slots, np.int64)
    length_N[: len(side.length_N)] = side.length_N
    filler_N = length_N[len(side.length_N) :][: budget.num_filler_sentences]
    filler_N += missing // len(filler_N)
    filler_N[: missing % len(filler_N)] += 1
    return Side(np.concatenate([side.token_L, np.full(missing, pad_id, side.token_L.dtype)]), length_N)


def _cu(length_N: IntArray) -> IntArray:
    """Cumulative lengths with a leading zero: where each sentence begins, and at last where all end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length_N)])


def _positions(length_N: IntArray) -> Tensor:
    return torch.from_numpy(token_index(np.zeros_like(length_N), length_N))
