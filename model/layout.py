"""Which tokens of a packed batch attend to which, computed once per batch and used by every layer.

Shape suffixes: T packed tokens, N sentences, L queries and M keys of a padded sentence, C padded cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_SIZE = 32  # sentences padded together


@dataclass(frozen=True)
class PackedLengths:
    """Sentence boundaries of one side of a batch: N + 1 offsets (int32), a bound on the lengths, the token count."""

    cu: Tensor
    max_length: int
    num_tokens: int


@dataclass(frozen=True)
class Padding:
    """Which padded cells hold which packed tokens: cell c holds token `row_of_cell_C[c]`; `cell_of_row_T` goes back.

    Filler cells hold some token of the batch too; what is computed from it is finite and never read.
    """

    row_of_cell_C: Tensor
    cell_of_row_T: Tensor


@dataclass(frozen=True)
class PaddedGroup:
    """Sentences padded to common lengths, in consecutive cells; `mask` is added to their scores (N, H, L, M)."""

    num_sentences: int
    query_length: int
    key_length: int
    mask: Tensor | None


@dataclass(frozen=True)
class AttentionLayout:
    """Sentence n's queries attend to sentence n's keys, if `causal` only to those not after them.

    Without paddings the variable-length kernel runs on the packed tokens themselves.
    """

    query_cu: Tensor
    key_cu: Tensor
    max_query_length: int
    max_key_length: int
    causal: bool
    query_padding: Padding | None = None
    key_padding: Padding | None = None
    groups: tuple[PaddedGroup, ...] = ()


def packed_layout(queries: PackedLengths, keys: PackedLengths, causal: bool) -> AttentionLayout:
    """The layout for the variable-length kernel."""
    return AttentionLayout(queries.cu, keys.cu, queries.max_length, keys.max_length, causal)


def padded_layout(queries: PackedLengths, keys: PackedLengths, causal: bool, dtype: torch.dtype) -> AttentionLayout:
    """The layout for padded attention with scores of `dtype`. Reads the lengths, so it waits for the device.

    Sentences of similar length are padded together: in shuffled order more than half of the cells would be filler.
    """
    total_lengths = queries.cu.diff() + keys.cu.diff()
    sentence_groups = total_lengths.argsort(stable=True).split(GROUP_SIZE)
    query_lengths = [_padded_length(queries, sentences) for sentences in sentence_groups]
    key_lengths = [_padded_length(keys, sentences) for sentences in sentence_groups]
    groups = tuple(
        PaddedGroup(s.numel(), query_length, key_length, _mask(keys.cu, s, key_length, causal, dtype))
        for s, query_length, key_length in zip(sentence_groups, query_lengths, key_lengths, strict=True)
    )
    query_padding = _padding(queries, sentence_groups, query_lengths)
    key_padding = query_padding if keys is queries else _padding(keys, sentence_groups, key_lengths)
    lengths = (queries.cu, keys.cu, queries.max_length, keys.max_length)
    return AttentionLayout(*lengths, causal, query_padding, key_padding, groups)


def _padded_length(side: PackedLengths, sentences: Tensor) -> int:
    # An empty sentence slot still gets one cell, so that no product has a size of zero.
    return max(1, int(side.cu.diff()[sentences].max()))


def _mask(key_cu: Tensor, sentences: Tensor, key_length: int, causal: bool, dtype: torch.dtype) -> Tensor | None:
    """The lowest finite value where a query must not look, so that a filler sentence without keys gives no NaN.

    A causal mask needs no lengths: filler keys come after every real query of their sentence.
    """
    positions_M = torch.arange(key_length, device=key_cu.device)
    if causal:
        hidden = positions_M > positions_M.unsqueeze(1)
    else:
        hidden = (positions_M >= key_cu.diff()[sentences].unsqueeze(1))[:, None, None, :]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def _padding(side: PackedLengths, sentence_groups: tuple[Tensor, ...], lengths: list[int]) -> Padding:
    rows, are_real = [], []
    for sentences, length in zip(sentence_groups, lengths, strict=True):
        positions_L = torch.arange(length, device=side.cu.device)
        rows_NL = side.cu[sentences].unsqueeze(1) + positions_L
        are_real.append((rows_NL < side.cu[sentences + 1].unsqueeze(1)).flatten())
        rows.append(rows_NL.flatten())
    is_real_C = torch.cat(are_real)
    row_of_cell_C = torch.cat(rows).clamp_(max=side.num_tokens - 1)
    # All filler cells write to one slot past the end: as fast as selecting the real ones, without waiting for a count.
    cell_of_row_T = row_of_cell_C.new_empty(side.num_tokens + 1)
    cells_C = torch.arange(row_of_cell_C.numel(), device=row_of_cell_C.device, dtype=row_of_cell_C.dtype)
    cell_of_row_T[torch.where(is_real_C, row_of_cell_C, side.num_tokens)] = cells_C
    return Padding(row_of_cell_C, cell_of_row_T[:-1])
