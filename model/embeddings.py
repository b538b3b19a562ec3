"""Token embeddings and sinusoidal positions (Vaswani et al. 2017, sections 3.4 and 3.5).

Shape suffixes: S tokens, L positions, V vocabulary, D d_model.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITION_BASE = 10_000.0  # wavelengths run from 2*pi to 10000 * 2*pi, section 3.5


class VocabularyTable(nn.Module):
    """One matrix (V, D) of token vectors: source and target look vectors up in it, the output layer multiplies by it.

    Every use of the weight goes through `forward`, because only there do the hooks fire by which DDP and ZeRO-3 gather
    the weight and reduce its gradient. So tied embeddings are one module, with one name in every saved state.
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        nn.init.normal_(self.weight, std=d_model**-0.5)

    def forward(self, x: Tensor, function: Callable[..., Any] = F.embedding, *args: Any) -> Any:
        """Returns `function(x, weight, *args)`; by default the vectors (S, D) of the ids `x` (S)."""
        return function(x, self.weight, *args)


def sinusoidal_positions(positions_L: Tensor, d_model: int) -> Tensor:
    """(L, D) fp32: sine in the even and cosine in the odd columns, for any position however large."""
    exponents = torch.arange(0, d_model, 2, device=positions_L.device, dtype=torch.float32) / d_model
    angles = positions_L.float().unsqueeze(1) * torch.exp(exponents * -math.log(POSITION_BASE))
    # L D/2 2 -> L D: sines and cosines alternate.
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :d_model]


def embed(table: VocabularyTable, ids_S: Tensor, positions_S: Tensor, max_length: int, dtype: torch.dtype) -> Tensor:
    """Returns token vectors times sqrt(d_model) plus position vectors, (S, D) in `dtype`.

    Every position is less than `max_length`. Vectors are rounded to `dtype` first and their gradients are summed in
    fp32, so that fp32 and bf16 parameters give the same.
    """
    tokens_SD = table(ids_S, _look_up).to(dtype)
    d_model = tokens_SD.size(1)
    # Computed once per position of the longest sentence, not once per token.
    sinusoids_LD = sinusoidal_positions(torch.arange(max_length, device=ids_S.device), d_model)
    # L D -> S D
    return torch.add(sinusoids_LD[positions_S], tokens_SD, alpha=math.sqrt(d_model)).to(dtype)


def _look_up(ids: Tensor, weight_VD: Tensor) -> Tensor:
    if torch.is_grad_enabled() and weight_VD.dtype == torch.bfloat16:
        # torch sums the gradients of a frequent token in the dtype of the weight; in bf16 most of them would be lost.
        weight_VD = weight_VD.float()
    return F.embedding(ids, weight_VD)
