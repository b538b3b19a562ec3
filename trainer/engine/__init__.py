"""The one seam to parallel training: every collective, wrapper, shard, device, precision and clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and a configuration (trainer.engine.config) does without it
    from torch import nn

    from trainer.engine.base import Engine
    from trainer.engine.config import EngineConfig, OptimizerConfig


def create_engine(model: nn.Module, engine: EngineConfig, optimizer: OptimizerConfig) -> Engine:
    """Joins the other processes and spreads `model` (in host memory, the same on every rank) over them."""
    # Either library takes seconds to import, so only the one in use is.
    if engine.kind == "ddp":
        from trainer.engine.accelerate_engine import AccelerateEngine

        return AccelerateEngine(model, engine, optimizer)
    from trainer.engine.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, engine, optimizer)
