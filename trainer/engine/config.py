"""Configuration of the engine and of the optimizer it steps."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its learning rate and the loss. The defaults are those of Vaswani et al. 2017, section 5.3 and 5.4."""

    peak_lr: float = 7.0e-4
    """The highest learning rate, which is reached at the end of the warm-up."""
    final_lr: float = 0.0
    """The learning rate at `run.max_steps`, for the schedules `cosine` and `linear`."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of Adam's first and second moment."""
    eps: float = 1.0e-9
    """Added to the denominator of Adam's update."""
    weight_decay: float = 0.0
    """Decoupled weight decay: each update subtracts the learning rate times this from each weight."""
    clip: float = 1.0
    """The largest global norm of the gradients; larger ones are scaled down. 0 switches clipping off."""
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    """After the warm-up `inverse_sqrt` falls with 1/sqrt(step), `cosine` and `linear` fall to `final_lr`."""
    warmup_steps: int = 4000
    """Steps in which the learning rate rises linearly from 0 to `peak_lr`."""
    label_smoothing: float = 0.1
    """Share of the probability that the training target spreads evenly over the vocabulary. Validation has none."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the model is spread over processes."""

    kind: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    """`ddp` keeps everything on every rank. ZeRO shards the optimizer's state (1), gradients (2) and weights (3)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """The type that the model computes in. Weights and moments are kept in fp32 either way."""
    activation_checkpointing: Literal["none", "full"] | int = "none"
    """`full`: every layer keeps only its input and computes the rest again for the gradients. n: every n-th layer."""
    offload: Literal["none", "cpu"] = "none"
    """`cpu`: ZeRO keeps the optimizer's state in host memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA if there is a GPU."""
    timeout_minutes: float = 30.0
    """How long a rank waits for the others in one collective before it fails."""
