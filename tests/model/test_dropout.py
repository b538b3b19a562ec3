"""Dropout: its rate and scale, its gradient, and that the seed governs it."""

import pytest
import torch

from model.dropout import dropout, dropout_add, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1000, 1003, dtype=dtype), p)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(mask.float().mean().item() - (1 - p)) < 0.002


def test_elements_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(0)
    dropped = 1 - keep_mask(torch.empty(1_000_000), 0.3)
    for distance in (1, 2, 3, 4, 256):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert abs(both - 0.09) < 0.002


def test_kept_elements_are_scaled_and_gradient_has_the_same_mask() -> None:
    torch.manual_seed(0)
    x = torch.ones(10_000, requires_grad=True)
    y = dropout(x, 0.2, training=True)
    y.sum().backward()
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1.25]))
    torch.testing.assert_close(x.grad, y.detach())


def test_seed_governs_the_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask(torch.empty(100), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_sum_with_residual_is_dropout_then_sum() -> None:
    x, residual = torch.randn(50, 8), torch.randn(50, 8)
    torch.manual_seed(3)
    expected = residual + dropout(x, 0.3, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(dropout_add(residual, x, 0.3, training=True), expected)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_switched_off(p: float, training: bool) -> None:
    x, residual = torch.randn(20), torch.randn(20)
    assert torch.equal(dropout(x, p, training), x)
    assert torch.equal(dropout_add(residual, x, p, training), residual + x)
