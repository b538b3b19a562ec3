"""Encoder and decoder layers (Vaswani et al. 2017, section 3.1).

Shape suffixes: T target or any tokens, S source tokens, B rows of a decoding step, D d_model, F d_ff.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CrossAttention, SelfAttention
from model.config import ModelConfig
from model.decoding import LayerCache
from model.dropout import dropout_add
from model.layout import AttentionLayout
from model.linear import LayerNorm, Linear


class FeedForward(nn.Module):
    """Position-wise feed-forward network, section 3.3; `swiglu` is Shazeer 2020 (three matrices, with biases here)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        num_blocks = 2 if config.activation == "swiglu" else 1
        self.inner = Linear(config.d_model, num_blocks * config.d_ff, num_blocks)
        self.outer = Linear(config.d_ff, config.d_model)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        hidden = self.inner(x_TD)  # T D -> T F, for swiglu T 2F
        hidden_TF = self._activate(hidden)
        return self.outer(hidden_TF)  # T F -> T D

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(hidden, inplace=True)
        if self.activation == "gelu":
            return F.gelu(hidden)
        gate_TF, value_TF = hidden.chunk(2, dim=-1)  # T 2F -> two of T F
        return F.silu(gate_TF) * value_TF


class Residual(nn.Module):
    """A residual connection around a sub-layer, with its dropout and norm.

    `post`, the paper's: norm(x + dropout(sublayer(x))). `pre`: x + dropout(sublayer(norm(x))) (Xiong et al. 2020).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_post = config.norm == "post"
        self.dropout = config.dropout
        self.norm = LayerNorm(config.d_model)

    def forward(self, x_TD: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(T, D) to (T, D)."""
        if self.is_post:
            return self.norm(dropout_add(x_TD, sublayer(x_TD), self.dropout, self.training))
        return dropout_add(x_TD, sublayer(self.norm(x_TD)), self.dropout, self.training)


class EncoderLayer(nn.Module):
    """An encoder layer: two sub-layers, figure 1 on the left."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_dropout = config.attention_dropout
        self.self_attention = SelfAttention(config.d_model, config.num_heads)
        self.self_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, x_SD: Tensor, layout: AttentionLayout) -> Tensor:
        """Source tokens (S, D) to (S, D)."""
        dropout = self.attention_dropout if self.training else 0.0
        # 1. Self-attention within each source sentence.
        x_SD = self.self_attention_residual(x_SD, lambda x: self.self_attention(x, layout, dropout))
        # 2. Feed-forward network, for each token alone.
        return self.feed_forward_residual(x_SD, self.feed_forward)


class DecoderLayer(nn.Module):
    """A decoder layer: three sub-layers, figure 1 on the right."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_dropout = config.attention_dropout
        self.self_attention = SelfAttention(config.d_model, config.num_heads)
        self.self_attention_residual = Residual(config)
        self.cross_attention = CrossAttention(config.d_model, config.num_heads)
        self.cross_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self, x_TD: Tensor, memory_SD: Tensor, self_layout: AttentionLayout, cross_layout: AttentionLayout
    ) -> Tensor:
        """Target tokens (T, D), given the memory (S, D) of their source sentences, to (T, D)."""
        dropout = self.attention_dropout if self.training else 0.0
        # 1. Masked self-attention: each target token sees itself and those before it in its sentence.
        x_TD = self.self_attention_residual(x_TD, lambda x: self.self_attention(x, self_layout, dropout))
        # 2. Attention to the memory of the source sentence.
        x_TD = self.cross_attention_residual(x_TD, lambda x: self.cross_attention(x, memory_SD, cross_layout, dropout))
        # 3. Feed-forward network, for each token alone.
        return self.feed_forward_residual(x_TD, self.feed_forward)

    def step(self, x_BD: Tensor, cache: LayerCache) -> Tensor:
        """One more token of each row (B, D), given those before in `cache`, to (B, D). Adds its keys and values.

        The sub-layers are those of `forward`, with the same numbers.
        """
        # 1.
        x_BD = self.self_attention_residual(x_BD, lambda x: cache.attend_self(self.self_attention, x))
        # 2.
        x_BD = self.cross_attention_residual(x_BD, lambda x: cache.attend_memory(self.cross_attention, x))
        # 3.
        return self.feed_forward_residual(x_BD, self.feed_forward)
