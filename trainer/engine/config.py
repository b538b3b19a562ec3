"""Configuration of the engine and of the optimizer it steps."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule; the defaults are the paper's (section 5.3) with decoupled weight decay.

    `schedule`: `inverse_sqrt` rises linearly to `peak_lr` over `warmup_steps`, then falls with 1/sqrt(step);
    `cosine` and `linear` fall to `final_lr` at `run.max_steps`; `constant` stays at the peak.
    `clip` is the largest global gradient norm (0 switches clipping off).
    """

    peak_lr: float = 7.0e-4
    final_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1.0e-9
    weight_decay: float = 0.0
    clip: float = 1.0
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    warmup_steps: int = 4000
    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the model is spread over processes.

    `activation_checkpointing`: `none`, `full`, or an integer n: every n-th layer keeps only its input.
    `offload`: where ZeRO keeps the optimizer's state. `timeout_minutes` bounds every collective.
    `device`: `auto` takes CUDA if torch finds a device.
    """

    kind: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    precision: Literal["fp32", "bf16"] = "bf16"
    activation_checkpointing: Literal["none", "full"] | int = "none"
    offload: Literal["none", "cpu"] = "none"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_minutes: float = 30.0
