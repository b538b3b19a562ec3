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
