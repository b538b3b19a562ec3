"""Sizes and variants of the Transformer."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and variants of the Transformer. The defaults are the base model of Vaswani et al. 2017, table 3."""

    preset: str | None = None
    """A set of sizes: tiny, small, base, big or deep. Its values replace the defaults of the settings below."""
    d_model: int = 512
    """Width of the embeddings and of every layer."""
    d_ff: int = 2048
    """Width between the two products of a feed-forward layer."""
    num_heads: int = 8
    """Attention heads per layer; each has the width `d_model` / `num_heads`."""
    num_encoder_layers: int = 6
    """Number of encoder layers."""
    num_decoder_layers: int = 6
    """Number of decoder layers."""
    dropout: float = 0.1
    """Probability of dropping an element of the embeddings and of what each sub-layer adds."""
    attention_dropout: float = 0.0
    """Probability of dropping an attention weight. The paper has none (section 5.4); several toolkits use 0.1."""
    norm: Literal["post", "pre"] = "post"
    """Normalisation after each sub-layer, as in the paper, or before it, which trains deep models more reliably."""
    activation: Literal["relu", "gelu", "swiglu"] = "relu"
    """Non-linearity of the feed-forward layers."""
    tied_embeddings: Literal["all", "decoder", "none"] = "all"
    """`all` uses one table for source, target and output (paper, section 3.4), `decoder` one for target and output."""


def _sizes(d_model: int, d_ff: int, num_heads: int, encoder_layers: int, decoder_layers: int) -> dict[str, Any]:
    layers = {"num_encoder_layers": encoder_layers, "num_decoder_layers": decoder_layers}
    return {"d_model": d_model, "d_ff": d_ff, "num_heads": num_heads, **layers}


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _sizes(128, 512, 4, 2, 2),
    "small": _sizes(256, 1024, 4, 3, 3),
    "base": _sizes(512, 2048, 8, 6, 6) | {"dropout": 0.1},
    "big": _sizes(1024, 4096, 16, 6, 6) | {"dropout": 0.3},
    "deep": _sizes(512, 2048, 8, 24, 6) | {"norm": "pre"},
}
