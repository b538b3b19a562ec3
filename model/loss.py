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
    """Returns (loss, nll) in nats, summed over tokens whose target is not `pad_id`; 0-dim fp32 (fp64 for fp64 inputs).

    Logits are `hidden @ weight.T` in the dtype of `hidden`, everything after them fp32. `nll` carries no gradient.
    """
    smoothing = _Smoothing(label_smoothing, pad_id)
    if torch.is_grad_enabled():
        return _LabelSmoothedLoss.apply(hidden_TD, weight_VD, target_out_T, smoothing)  # type: ignore[no-untyped-call]
    buffers = _Buffers.for_tokens(hidden_TD, weight_VD)
    weight_VD = weight_VD.to(hidden_TD.dtype)
    sums = hidden_TD.new_zeros(2, dtype=buffers.logits_CV.dtype)
    for hidden_CD, target_C in _chunks(buffers.size, hidden_TD, target_out_T):
        sums += _losses(*_probabilities(hidden_CD, weight_VD, buffers), target_C, smoothing)
    return sums[0], sums[1]


class _LabelSmoothedLoss(torch.autograd.Function):
    """Forward computes the gradients of hidden and weight, chunk by chunk, from the logits; backward scales them.

    The alternative, computing each chunk again in backward, costs one more matrix product and softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, target_out_T: Tensor, smoothing: _Smoothing
    ) -> tuple[Tensor, Tensor]:
        """See `label_smoothed_loss`."""
        buffers = _Buffers.for_tokens(hidden_TD, weight_VD)
        weight = weight_VD.to(hidden_TD.dtype)
        sums = hidden_TD.new_zeros(2, dtype=buffers.logits_CV.dtype)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight, dtype=sums.dtype)
        for hidden_CD, target_C, grad_CD in _chunks(buffers.size, hidden_TD, target_out_T, grad_hidden_TD):
            logits_CV, p_CV = _probabilities(hidden_CD, weight, buffers)  # C D, D V -> C V
            sums += _losses(logits_CV, p_CV, target_C, smoothing)
            grad_logits_CV = buffers.product_CV[: len(hidden_CD)].copy_(_grad_logits(p_CV, target_C, smoothing))
            is_real_C1 = (target_C != smoothing.pad_id).unsqueeze(1)
            torch.mm(grad_logits_CV, weight, out=grad_CD).mul_(is_real_C1)  # C V, V D -> C D
            # V C, C D -> V D
            grad_weight_VD += torch.mm(grad_logits_CV.t(), hidden_CD * is_real_C1, out=buffers.grad_weight_VD)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        loss, nll = sums[0].clone(), sums[1].clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        grad_hidden_TD = (grad_hidden_TD.to(grad_loss.dtype) * grad_loss).to(grad_hidden_TD.dtype)
        return grad_hidden_TD, (grad_weight_VD * grad_loss).to(ctx.weight_dtype), None, None


@dataclass(frozen=True)
class _Buffers:
    """Memory for one chunk, reused by all: a CPU's allocator would return and page in megabytes for every chunk.

    `product_CV` and `grad_weight_VD` have the dtype of the matrix products; `logits_CV` and `p_CV` are fp32.
    """

    size: int
    product_CV: Tensor
    logits_CV: Tensor
    p_CV: Tensor
    grad_weight_VD: Tensor

    @staticmethod
    def for_tokens(hidden_TD: Tensor, weight_VD: Tensor) -> "_Buffers":
        chunk_bytes = CPU_CHUNK_BYTES if hidden_TD.device.type == "cpu" else GPU_CHUNK_BYTES
        vocab_size = weight_VD.size(0)
        size = min(hidden_TD.size(0), max(1, chunk_bytes // (4 * vocab_size)))
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)
        product_CV = hidden_TD.new_empty(size, vocab_size)
        logits_CV, p_CV = (hidden_TD.new_empty(size, vocab_size, dtype=wide) for _ in range(2))
        return _Buffers(size, product_CV, logits_CV, p_CV, torch.empty_like(weight_VD, dtype=hidden_TD.dtype))


def _chunks(size: int, *tensors: Tensor) -> Any:
    """The tensors, all cut along their tokens in the same places."""
    return zip(*(x.split(size) for x in tensors), strict=True)


def _probabilities(hidden_CD: Tensor, weight_VD: Tensor, buffers: _Buffers) -> tuple[Tensor, Tensor]:
    """Logits and their softmax."""
    rows = slice(len(hidden_CD))
    logits_CV = buffers.logits_CV[rows].copy_(torch.mm(hidden_CD, weight_VD.t(), out=buffers.product_CV[rows]))
    return logits_CV, torch.softmax(logits_CV, 1, out=buffers.p_CV[rows])


def _losses(logits_CV: Tensor, p_CV: Tensor, target_C: Tensor, smoothing: _Smoothing) -> Tensor:
    """Loss and nll, summed over the real tokens: (2)."""
    is_real_C = target_C != smoothing.pad_id
    # The largest probability is 1 / sum(exp(logits - max)) and at least 1 / V: its logarithm is exact enough, and saves
    # a second pass of exponentials over all logits.
    normaliser_C = logits_CV.amax(1) - p_CV.amax(1).log()
    nll = ((normaliser_C - logits_CV.gather(1, target_C.unsqueeze(1)).squeeze(1)) * is_real_C).sum()
    uniform = ((normaliser_C - logits_CV.mean(1)) * is_real_C).sum()
    return torch.stack(((1 - smoothing.epsilon) * nll + smoothing.epsilon * uniform, nll))


def _grad_logits(p_CV: Tensor, target_C: Tensor, smoothing: _Smoothing) -> Tensor:
    """Softmax minus the smoothed target distribution. Overwrites `p_CV`. Filler is masked later, after the products,
    where that costs less."""
    grad_CV = p_CV.sub_(smoothing.epsilon / p_CV.size(1))
    target_C1 = target_C.unsqueeze(1)
    return grad_CV.scatter_add_(1, target_C1, grad_CV.new_full((), smoothing.epsilon - 1).expand_as(target_C1))
