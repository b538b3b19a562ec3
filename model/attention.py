"""Multi-head attention over packed sentences (Vaswani et al. 2017, section 3.2).

Only `attend` knows where sentences end. On CUDA it runs the variable-length kernel on the packed tokens; elsewhere it
copies them into padded groups of sentences, attends there and copies the result back.

Shape suffixes: T query tokens, S key tokens, H heads, K size of a head, N sentences of a group, L queries and M keys
of a padded sentence, C padded cells, D d_model.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import dropout
from model.layout import AttentionLayout, PaddedGroup, Padding
from model.linear import Linear


@cache
def _varlen_attention(causal: bool) -> Callable[..., Any]:
    """The variable-length kernel. Imported only here, because it imports torch.compile, which takes a second or two."""
    from torch.nn.attention.varlen import varlen_attn

    if not causal:
        return varlen_attn
    # torch 2.11 and 2.12 take `is_causal`; later versions take a window instead, here unbounded to the left.
    takes_flag = "is_causal" in inspect.signature(varlen_attn).parameters
    window: dict[str, Any] = {"is_causal": True} if takes_flag else {"window_size": (-1, 0)}
    return partial(varlen_attn, **window)


class _Pad(torch.autograd.Function):
    """Copies packed rows into padded cells. Filler cells receive no gradient, so backward is a plain selection."""

    @staticmethod
    def forward(ctx: Any, packed_TX: Tensor, padding: Padding) -> Tensor:
        """(T, ...) to (C, ...)."""
        ctx.padding = padding
        return packed_TX.index_select(0, padding.row_of_cell_C)  # T X -> C X

    @staticmethod
    def backward(ctx: Any, grad_CX: Tensor) -> tuple[Tensor, None]:
        return grad_CX.index_select(0, ctx.padding.cell_of_row_T), None  # C X -> T X


class _Unpad(torch.autograd.Function):
    """Copies padded cells back into packed rows. The gradient of filler cells is zero."""

    @staticmethod
    def forward(ctx: Any, padded_CX: Tensor, padding: Padding) -> Tensor:
        """(C, ...) to (T, ...)."""
        ctx.padding = padding
        return padded_CX.index_select(0, padding.cell_of_row_T)  # C X -> T X

    @staticmethod
    def backward(ctx: Any, grad_TX: Tensor) -> tuple[Tensor, None]:
        padding = ctx.padding
        grad_CX = grad_TX.new_zeros(padding.row_of_cell_C.numel(), *grad_TX.shape[1:])
        return grad_CX.index_copy_(0, padding.cell_of_row_T, grad_TX), None  # T X -> C X


def attend(
    query_THK: Tensor, key_SHK: Tensor, value_SHK: Tensor, layout: AttentionLayout, attention_dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention within each sentence, section 3.2.1.

    Returns (T, H, K): for each query the mean of its sentence's values, weighted by softmax(q k / sqrt(K)).
    """
    if layout.query_padding is None:
        assert attention_dropout == 0, "the variable-length kernel has no dropout"
        lengths = (layout.query_cu, layout.key_cu, layout.max_query_length, layout.max_key_length)
        return cast(Tensor, _varlen_attention(layout.causal)(query_THK, key_SHK, value_SHK, *lengths))
    return _attend_padded(query_THK, key_SHK, value_SHK, layout, attention_dropout)


def _attend_padded(
    query_THK: Tensor, key_SHK: Tensor, value_SHK: Tensor, layout: AttentionLayout, attention_dropout: float
) -> Tensor:
    query_CHK = _Pad.apply(query_THK, layout.query_padding)  # type: ignore[no-untyped-call]  # T H K -> C H K
    key_CHK, value_CHK = (_Pad.apply(x, layout.key_padding) for x in (key_SHK, value_SHK))  # type: ignore[no-untyped-call]  # S H K -> C H K
    # The cells of each group of sentences, which are consecutive: C H K -> (N L) H K and (N M) H K.
    queries = query_CHK.split([g.num_sentences * g.query_length for g in layout.groups])
    num_keys = [g.num_sentences * g.key_length for g in layout.groups]
    keys, values = key_CHK.split(num_keys), value_CHK.split(num_keys)
    outputs = [
        _attend_group(q, k, v, group, attention_dropout)
        for q, k, v, group in zip(queries, keys, values, layout.groups, strict=True)
    ]
    return _Unpad.apply(torch.cat(outputs), layout.query_padding)  # type: ignore[no-untyped-call]  # C H K -> T H K


def _attend_group(query: Tensor, key: Tensor, value: Tensor, group: PaddedGroup, attention_dropout: float) -> Tensor:
    """Attention of one group of padded sentences: (N L, H, K) queries, (N M, H, K) keys and values to (N L, H, K)."""
    # (N L) H K -> N H L K and (N M) H K -> N H M K
    query_NHLK, key_NHMK, value_NHMK = (
        x.unflatten(0, (group.num_sentences, -1)).transpose(1, 2) for x in (query, key, value)
    )
    # On a CPU the backward of the fused kernel takes four times as long as that of the products below.
    if attention_dropout == 0 and not (query.device.type == "cpu" and torch.is_grad_enabled()):
        output_NHLK = F.scaled_dot_product_attention(query_NHLK, key_NHMK, value_NHMK, attn_mask=group.mask)
        return output_NHLK.transpose(1, 2).flatten(0, 1)  # N H L K -> (N L) H K
    scores_NHLM = (query_NHLK * query_NHLK.size(-1) ** -0.5) @ key_NHMK.transpose(2, 3)  # N H L K, N H K M -> N H L M
    if group.mask is not None:
        scores_NHLM = scores_NHLM + group.mask
    weights_NHLM = dropout(scores_NHLM.softmax(-1), attention_dropout, training=True)
    output_NHLK = weights_NHLM @ value_NHMK  # N H L M, N H M K -> N H L K
    return output_NHLK.transpose(1, 2).flatten(0, 1)  # N H L K -> (N L) H K


class SelfAttention(nn.Module):
    """Multi-head attention in which each token attends to tokens of its own sentence, section 3.2.3."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = Linear(d_model, 3 * d_model, num_blocks=3)
        self.output = Linear(d_model, d_model)

    def forward(self, x_TD: Tensor, layout: AttentionLayout, attention_dropout: float = 0.0) -> Tensor:
        """(T, D) to (T, D)."""
        query_THK, key_THK, value_THK = self.project(x_TD)
        output_THK = attend(query_THK, key_THK, value_THK, layout, attention_dropout)
        return self.output(output_THK.flatten(1))  # T H K -> T D

    def project(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (T, H, K), in one product."""
        # T D -> T 3D -> three of T D -> T H K
        return tuple(x.unflatten(1, (self.num_heads, -1)) for x in self.query_key_value(x_TD).chunk(3, dim=1))


class CrossAttention(nn.Module):
    """Multi-head attention in which each target token attends to the memory of its source sentence, section 3.2.3."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(d_model, d_model)
        self.key_value = Linear(d_model, 2 * d_model, num_blocks=2)
        self.output = Linear(d_model, d_model)

    def forward(
        self, x_TD: Tensor, memory_SD: Tensor, layout: AttentionLayout, attention_dropout: float = 0.0
    ) -> Tensor:
        """(T, D) and a memory (S, D) to (T, D)."""
        query_THK = self.project_query(x_TD)
        key_SHK, value_SHK = self.project_memory(memory_SD)
        output_THK = attend(query_THK, key_SHK, value_SHK, layout, attention_dropout)
        return self.output(output_THK.flatten(1))  # T H K -> T D

    def project_memory(self, memory_SD: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the memory, each (S, H, K). Decoding computes them once per sentence."""
        # S D -> S 2D -> two of S D -> S H K
        return tuple(x.unflatten(1, (self.num_heads, -1)) for x in self.key_value(memory_SD).chunk(2, dim=1))

    def project_query(self, x_TD: Tensor) -> Tensor:
        """Queries (T, H, K)."""
        return self.query(x_TD).unflatten(1, (self.num_heads, -1))  # T D -> T H K
