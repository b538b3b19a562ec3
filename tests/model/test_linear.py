"""Layers compute in the dtype of their input; fused projections start as separate matrices."""

import math

import torch

from model.linear import LayerNorm, Linear


def test_each_fused_block_is_its_own_xavier_matrix() -> None:
    torch.manual_seed(0)
    layer = Linear(64, 3 * 64, num_blocks=3)
    bound = math.sqrt(6 / (64 + 64))
    for block in layer.weight.chunk(3):
        assert 0.98 * bound < block.abs().max().item() <= bound
    assert layer.bias.abs().max() == 0


def test_computes_in_the_dtype_of_the_input_and_keeps_fp32_gradients() -> None:
    for layer in (Linear(8, 8), LayerNorm(8)):
        y = layer(torch.randn(5, 8, dtype=torch.bfloat16))
        y.sum().backward()
        assert y.dtype == torch.bfloat16
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
