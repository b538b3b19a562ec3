"""Whole sentence pairs, concatenated into micro-batches within a token budget.

Shape suffixes: N sentences, S source tokens, T target tokens, L tokens of either side.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.batch import PackedBatch
from trainer.data.feeding.budget import Budget
from trainer.data.order.hashing import stable_hash
from trainer.data.text.sentences import IntArray, Side, token_index
from trainer.data.text.tokenizer import SpecialIds


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward and backward pass; the engine knows it by a protocol of the same name.

    `index` counts the micro-batches of the run over all ranks, `lane` is the lane of the pairs, `seed` (63 bits, from
    the run's seed and the index) is for dropout. `pair_ids` identifies the pairs: corpus_N (position in `data.train`)
    and row_N (position in that corpus's store).
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
        """Number of real pairs, without filler."""
        return len(self.pair_ids[0])

    def parts(self, number: int) -> "list[MicroBatch]":
        """The same pairs in `number` micro-batches of about as many tokens each, without filler.

        Each part gets its own seed for dropout. Raises ValueError if there are fewer pairs than parts.
        """
        if number == 1:
            return [self]
        if number > self.num_pairs:
            raise ValueError(f"{self.num_pairs} pairs cannot be cut into {number} parts")
        tokens_N = (self.batch.source_cu + self.batch.target_cu)[1 : self.num_pairs + 1].numpy()
        wanted = tokens_N[-1] * np.arange(1, number) / number
        # Each cut is at the wanted number of tokens, but at least one pair after the cut before it, and leaves at least
        # one pair for each part that follows. With earliest[k] = k + 1 subtracted, "at least one pair after" becomes
        # "not before", a running maximum: cuts at 2, 2, 7 are 1, 0, 4, then 1, 1, 4, and so 2, 3, 7.
        earliest = np.arange(1, number)
        cuts = np.maximum.accumulate(np.searchsorted(tokens_N, wanted, "right") - earliest) + earliest
        cuts = np.clip(cuts, earliest, self.num_pairs - number + earliest)
        bounds = [0, *cuts.tolist(), self.num_pairs]
        return [self._part(n, *bounds[n : n + 2]) for n in range(number)]

    def _part(self, number: int, first: int, last: int) -> "MicroBatch":
        corpus_N, row_N = self.pair_ids
        return replace(
            self,
            batch=self.batch.part(first, last),
            seed=stable_hash(self.seed, first, last) >> 1,
            pair_ids=(corpus_N[first:last], row_N[first:last]),
        )


def pack(source: Side, target: Side, ids: SpecialIds, static: Budget | None = None) -> PackedBatch:
    """The packed batch of N pairs; with `static`, filled up to the one shape of the run.

    A filler sentence has 1 to `max_length` tokens on both sides, so that attention always has something to attend to;
    unused sentence slots have no tokens on either side.
    """
    num_target_tokens = len(target.token_L)
    if static is not None:
        source = _filled(source, static.max_source_tokens, static, ids.source_pad_id)
        target = _filled(target, static.max_target_tokens, static, ids.target_pad_id)
    source_cu, target_cu = _cu(source.length_N), _cu(target.length_N)
    target_out_T = target.token_L.astype(np.int64)
    target_in_T = np.empty_like(target_out_T)
    target_in_T[1:] = target_out_T[:-1]
    first_N = target_cu[:-1][target.length_N > 0]
    # Filler sentences stay as they are: padding throughout, which nothing reads.
    target_in_T[first_N] = np.where(target_out_T[first_N] == ids.target_pad_id, ids.target_pad_id, ids.bos_id)
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


def _filled(side: Side, max_tokens: int, budget: Budget, pad_id: int) -> Side:
    missing = budget.static_tokens(max_tokens) - len(side.token_L)
    num_slots = budget.max_sentences + budget.num_filler_sentences
    length_N = np.zeros(num_slots, np.int64)
    length_N[: len(side.length_N)] = side.length_N
    filler_N = length_N[len(side.length_N) :][: budget.num_filler_sentences]
    filler_N += missing // len(filler_N)
    filler_N[: missing % len(filler_N)] += 1
    return Side(np.concatenate([side.token_L, np.full(missing, pad_id, side.token_L.dtype)]), length_N)


def _cu(length_N: IntArray) -> IntArray:
    """Cumulative lengths with a leading zero: the start of each sentence, and last the end of all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length_N)])


def _positions(length_N: IntArray) -> Tensor:
    return torch.from_numpy(token_index(np.zeros_like(length_N), length_N))
