"""The chunked loss equals torch's own, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import loss as loss_module
from model.loss import label_smoothed_loss

PAD_ID = 0


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CPU_CHUNK_BYTES", 4 * 11 * 8)  # 8 tokens of 11 logits


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(37, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 6, dtype=dtype, requires_grad=True)
    target = torch.randint(0, 11, (37,))
    assert (target == PAD_ID).any()
    return hidden, weight, target


def reference(hidden: Tensor, weight: Tensor, target: Tensor, epsilon: float) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), target, ignore_index=PAD_ID, reduction="sum", label_smoothing=epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_values_and_gradients(epsilon: float) -> None:
    hidden, weight, target = example()
    loss, nll = label_smoothed_loss(hidden, weight, target, epsilon, PAD_ID)
    expected = reference(hidden, weight, target, epsilon)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, reference(hidden, weight, target, 0.0))
    assert not nll.requires_grad
    for got, wanted in zip(
        torch.autograd.grad(loss * 0.3, (hidden, weight)),
        torch.autograd.grad(expected * 0.3, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_gradient_against_finite_differences() -> None:
    hidden, weight, target = example()
    assert torch.autograd.gradcheck(
        lambda h, w: label_smoothed_loss(h, w, target, 0.1, PAD_ID)[0], (hidden, weight), fast_mode=True
    )


def test_bfloat16_hidden_with_fp32_weight() -> None:
    hidden, weight, target = example(torch.float32)
    loss, nll = label_smoothed_loss(hidden.bfloat16(), weight, target, 0.1, PAD_ID)
    assert loss.dtype == nll.dtype == torch.float32
    expected = reference(hidden, weight, target, 0.1)
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    got = torch.autograd.grad(loss, (hidden, weight))
    for gradient, wanted in zip(got, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - wanted).norm() < 0.02 * wanted.norm()


def test_without_gradients_the_same_values() -> None:
    hidden, weight, target = example()
    with_gradients = label_smoothed_loss(hidden, weight, target, 0.1, PAD_ID)
    with torch.no_grad():
        without = label_smoothed_loss(hidden, weight, target, 0.1, PAD_ID)
    torch.testing.assert_close(without, tuple(x.detach() for x in with_gradients))
    assert not without[0].requires_grad


def test_sum_over_a_concatenation_is_the_sum() -> None:
    hidden, weight, target = example()
    whole = label_smoothed_loss(hidden, weight, target, 0.1, PAD_ID)
    parts = [label_smoothed_loss(hidden[r], weight, target[r], 0.1, PAD_ID) for r in (slice(0, 13), slice(13, 37))]
    torch.testing.assert_close(whole[0], parts[0][0] + parts[1][0])
    torch.testing.assert_close(whole[1], parts[0][1] + parts[1][1])
