"""Sizes and variants of the Transformer."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and variants of one Transformer; the defaults are the paper's base model (Vaswani et al. 2017, table 3).

    `preset` names an entry of `PRESETS` whose values stand wherever the user gave none; it has been applied by the
    time a `ModelConfig` exists and is kept only as a record.

    `tied_embeddings`: `all` shares one table between source, target and output (paper, section 3.4), `decoder`
    shares target and output only, `none` shares nothing.

    `attention_dropout` acts on the attention weights; the paper has none (section 5.4), several toolkits use 0.1.
    """

    preset: str | None = None
    d_model: int = 512
    d_ff: int = 2048
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dropout: float = 0.1
    attention_dropout: float = 0.0
    norm: Literal["post", "pre"] = "post"
    activation: Literal["relu", "gelu", "swiglu"] = "relu"
    tied_embeddings: Literal["all", "decoder", "none"] = "all"


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(d_model=128, d_ff=512, num_heads=4, num_encoder_layers=2, num_decoder_layers=2),
    "small": dict(d_model=256, d_ff=1024, num_heads=4, num_encoder_layers=3, num_decoder_layers=3),
    "base": dict(d_model=512, d_ff=2048, num_heads=8, num_encoder_layers=6, num_decoder_layers=6, dropout=0.1),
    "big": dict(d_model=1024, d_ff=4096, num_heads=16, num_encoder_layers=6, num_decoder_layers=6, dropout=0.3),
    "deep": dict(d_model=512, d_ff=2048, num_heads=8, num_encoder_layers=24, num_decoder_layers=6, norm="pre"),
}
