"""Linear layer and LayerNorm that compute in the dtype of their input, whatever the dtype of their weights.

A model with fp32 parameters (DDP) and one with bf16 parameters and fp32 masters (DeepSpeed) therefore do the same
arithmetic, without autocast.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer with bias. `num_blocks` projections fused along the output are initialised one by one."""

    def __init__(self, in_features: int, out_features: int, num_blocks: int = 1) -> None:
        self.num_blocks = num_blocks
        super().__init__(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    def reset_parameters(self) -> None:
        """Xavier uniform for each block as a separate matrix (Glorot and Bengio 2010), biases zero."""
        for block in self.weight.chunk(self.num_blocks):
            nn.init.xavier_uniform_(block)
        nn.init.zeros_(self.bias)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last dimension (Ba et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
