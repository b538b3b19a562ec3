"""Fast attention equals attention written out sentence by sentence."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from model import attention
from model.attention import attend
from model.layout import AttentionLayout, PackedLengths, packed_layout, padded_layout

NUM_HEADS, HEAD_SIZE = 2, 4


def lengths_of(sizes: list[int]) -> PackedLengths:
    return PackedLengths(torch.tensor([0, *sizes]).cumsum(0).int(), max(sizes), sum(sizes))


def random_sizes(seed: int, n: int = 70) -> list[int]:
    return torch.randint(1, 12, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def written_out(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> Tensor:
    outputs = []
    query_cu, key_cu = layout.query_cu.tolist(), layout.key_cu.tolist()
    for n in range(len(query_cu) - 1):
        q = query[query_cu[n] : query_cu[n + 1]].transpose(0, 1)
        k, v = (x[key_cu[n] : key_cu[n + 1]].transpose(0, 1) for x in (key, value))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.size(-1))
        if layout.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


def inputs(queries: PackedLengths, keys: PackedLengths) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)

    def random(num_tokens: int) -> Tensor:
        return torch.randn(num_tokens, NUM_HEADS, HEAD_SIZE, dtype=torch.float64, requires_grad=True)

    return random(queries.num_tokens), random(keys.num_tokens), random(keys.num_tokens)


@pytest.mark.parametrize("attention_dropout", [0.0, 1e-9])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_padded_attention_is_attention_written_out(kind: str, attention_dropout: float) -> None:
    """Values and gradients, on both paths: the fused kernel, and the one with dropout (here of next to nothing)."""
    queries = lengths_of(random_sizes(1))
    keys = lengths_of(random_sizes(2)) if kind == "cross" else queries
    layout = padded_layout(queries, keys, kind == "decoder", torch.float64)
    query_key_value = inputs(queries, keys)
    actual = attend(*query_key_value, layout, attention_dropout)
    expected = written_out(*query_key_value, layout)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad((actual * direction).sum(), query_key_value),
        torch.autograd.grad((expected * direction).sum(), query_key_value),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_attention_dropout_drops_weights_and_keeps_their_mean() -> None:
    lengths = lengths_of([10] * 400)
    layout = padded_layout(lengths, lengths, False, torch.float64)
    query, key, _ = inputs(lengths, lengths)
    ones = torch.ones_like(key)
    torch.manual_seed(0)
    sums_of_weights = attend(query, key, ones, layout, 0.3)[..., 0]
    assert abs(sums_of_weights.mean().item() - 1) < 0.02
    assert sums_of_weights.std() > 0.1


def test_cells_and_rows_are_inverse() -> None:
    lengths = lengths_of(random_sizes(3))
    padding = padded_layout(lengths, lengths, True, torch.float32).query_padding
    assert padding is not None
    rows = torch.arange(lengths.num_tokens)
    assert torch.equal(padding.row_of_cell_C[padding.cell_of_row_T].long(), rows)
    assert len(padding.cell_of_row_T.unique()) == lengths.num_tokens


def test_like_lengths_are_padded_together() -> None:
    lengths = lengths_of([3, 30] * 64)
    padding = padded_layout(lengths, lengths, True, torch.float32).query_padding
    assert padding is not None
    assert padding.row_of_cell_C.numel() == lengths.num_tokens


def test_filler_without_keys_is_finite() -> None:
    queries, keys = lengths_of([3, 4]), lengths_of([5, 0])
    layout = padded_layout(queries, keys, False, torch.float64)
    for attention_dropout in (0.0, 0.5):
        query_key_value = inputs(queries, keys)
        output = attend(*query_key_value, layout, attention_dropout)
        assert output.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(output[:3].sum(), query_key_value))


@pytest.mark.parametrize("causal", [True, False])
def test_variable_length_kernel_gets_what_it_asks_for(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """The kernel itself needs CUDA: here its arguments are bound to the installed torch's signature."""
    signature = inspect.signature(varlen.varlen_attn)
    queries = lengths_of(random_sizes(1))
    keys = queries if causal else lengths_of(random_sizes(2))
    layout = packed_layout(queries, keys, causal)

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs).arguments
        is_causal = bound.get("is_causal", bound.get("window_size") == (-1, 0))
        assert is_causal == causal
        assert (bound["max_q"], bound["max_k"]) == (queries.max_length, keys.max_length)
        told = packed_layout(PackedLengths(bound["cu_seq_q"], 0, 0), PackedLengths(bound["cu_seq_k"], 0, 0), is_causal)
        return written_out(bound["query"], bound["key"], bound["value"], told)

    monkeypatch.setattr(kernel, "__signature__", signature, raising=False)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "_varlen_attention", attention._varlen_attention.__wrapped__)
    query_key_value = inputs(queries, keys)
    torch.testing.assert_close(attend(*query_key_value, layout), written_out(*query_key_value, layout))
