"""Label-smoothed cross-entropy that never holds the logits of a whole batch.

The smoothing is the paper's (section 5.4) in the form of fairseq: a share epsilon of the target distribution is
spread evenly over the whole vocabulary, so loss = (1 - epsilon) * nll + epsilon * mean over the vocabulary of -log p.

Shape suffixes: T tokens, C tokens of a chunk, V vocabulary, D d_model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# fp32 logits of one chunk: on a CPU they stay within its cache, on a GPU the products become large enough.
CPU_CHUNK_BYTES = 2**23
GPU_CHUNK_BYTES = 2**28


@dataclass(frozen=True)
class _Smoothing:
    epsilon: float
    pad_id: int


def label_smoothed_loss(
    hidden_TD: Tensor, weight_VD: Tensor, target_out_T: Tensor, label_smoothing: float, pad_id: int
) -> tuple[Tensor, Tensor]:
    """(loss sum, nll sum) in nats over the tokens whose target is not `pad_id`; 0-dim fp32 (fp64 for fp64 inputs).

    Logits are `hidden @ weight.T` in the dtype of `hidden`, everything after them fp32. `nll` carries no gradient.
    """
    smoothing = _Smoothing(label_smoothing, pad_id)
    if torch.is_grad_enabled():
        return _LabelSmoothedLoss.apply(hidden_TD, weight_VD, target_out_T, smoothing)
    weight_VD = weight_VD.to(hidden_TD.dtype)
    sums = hidden_TD.new_zeros(2, dtype=_accumulator(hidden_TD))
    for hidden_CD, target_C in _chunks(weight_VD, hidden_TD, target_out_T):
        sums += _losses(_log_p(hidden_CD, weight_VD), target_C, smoothing)
    return sums[0], sums[1]


class _LabelSmoothedLoss(torch.autograd.Function):
    """Forward makes the gradients of hidden and weight chunk by chunk while it has the logits; backward scales them.

    The alternative, running each chunk again in backward, costs one more matrix product and softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, target_out_T: Tensor, smoothing: _Smoothing
    ) -> tuple[Tensor, Tensor]:
        weight = weight_VD.to(hidden_TD.dtype)
        sums = hidden_TD.new_zeros(2, dtype=_accumulator(hidden_TD))
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight, dtype=sums.dtype)
        for hidden_CD, target_C, grad_CD in _chunks(weight, hidden_TD, target_out_T, grad_hidden_TD):
            log_p_CV = _log_p(hidden_CD, weight)
            sums += _losses(log_p_CV, target_C, smoothing)
            grad_logits_CV = _grad_logits(log_p_CV, target_C, smoothing).to(hidden_CD.dtype)
            torch.mm(grad_logits_CV, weight, out=grad_CD)
            grad_weight_VD += grad_logits_CV.t() @ hidden_CD
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        loss, nll = sums[0].clone(), sums[1].clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        grad_hidden_TD = grad_hidden_TD * grad_loss.to(grad_hidden_TD.dtype)
        return grad_hidden_TD, (grad_weight_VD * grad_loss).to(ctx.weight_dtype), None, None


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _chunks(weight_VD: Tensor, *tensors: Tensor) -> Any:
    """The tensors, cut alike along their tokens."""
    chunk_bytes = CPU_CHUNK_BYTES if weight_VD.device.type == "cpu" else GPU_CHUNK_BYTES
    size = max(1, chunk_bytes // (4 * weight_VD.size(0)))
    return zip(*(x.split(size) for x in tensors), strict=True)


def _log_p(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    return (hidden_CD @ weight_VD.t()).log_softmax(1, dtype=_accumulator(hidden_CD))


def _losses(log_p_CV: Tensor, target_C: Tensor, smoothing: _Smoothing) -> Tensor:
    """Loss and nll, summed over the real tokens: (2)."""
    is_real_C = target_C != smoothing.pad_id
    nll = -(log_p_CV.gather(1, target_C.unsqueeze(1)).squeeze(1) * is_real_C).sum()
    uniform = -(log_p_CV.mean(1) * is_real_C).sum()
    return torch.stack(((1 - smoothing.epsilon) * nll + smoothing.epsilon * uniform, nll))


def _grad_logits(log_p_CV: Tensor, target_C: Tensor, smoothing: _Smoothing) -> Tensor:
    """Softmax minus the smoothed target distribution, zero for filler; overwrites `log_p_CV`."""
    grad_CV = log_p_CV.exp_().sub_(smoothing.epsilon / log_p_CV.size(1))
    target_C1 = target_C.unsqueeze(1)
    grad_CV.scatter_add_(1, target_C1, grad_CV.new_full((), smoothing.epsilon - 1).expand_as(target_C1))
    return grad_CV.mul_((target_C != smoothing.pad_id).unsqueeze(1))
