"""Positions as the paper prints them; token vectors scaled by sqrt(d_model)."""

import math

import pytest
import torch

from model.embeddings import VocabularyTable, embed, sinusoidal_positions


def test_positions_are_the_papers_formula() -> None:
    d_model = 6
    actual = sinusoidal_positions(torch.arange(50), d_model)
    for position in (0, 1, 7, 49):
        for i in range(d_model // 2):
            angle = position / 10_000 ** (2 * i / d_model)
            assert math.isclose(actual[position, 2 * i], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(actual[position, 2 * i + 1], math.cos(angle), abs_tol=1e-5)


def test_any_position_has_a_vector() -> None:
    vectors = sinusoidal_positions(torch.tensor([100_000, 100_001]), 8)
    assert vectors.isfinite().all()
    assert not torch.equal(vectors[0], vectors[1])


def test_tokens_are_scaled_and_positions_are_not() -> None:
    table = VocabularyTable(10, 16)
    ids, positions = torch.tensor([3, 4, 3]), torch.tensor([0, 1, 0])
    expected = table.weight[ids] * 4 + sinusoidal_positions(positions, 16)
    torch.testing.assert_close(embed(table, ids, positions, 2, torch.float32), expected)


def test_token_vectors_start_with_variance_one_over_d_model() -> None:
    torch.manual_seed(0)
    weight = VocabularyTable(2000, 64).weight
    assert abs(weight.std().item() * 8 - 1) < 0.01
    assert weight[0].abs().sum() > 0


def test_gradients_of_a_frequent_token_add_up_under_bf16() -> None:
    """1,000 gradients of 1: a bf16 sum stops at 256."""
    table = VocabularyTable(4, 2).bfloat16()
    ids = torch.full((1000,), 3)
    embed(table, ids, torch.zeros_like(ids), 1, torch.bfloat16).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[3, 0].item() == pytest.approx(1000 * 2**0.5, rel=0.01)
