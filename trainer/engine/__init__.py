"""The one seam to parallel training: every collective, wrapper, shard, device, precision and clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and trainer.engine.config works without it
    from torch import nn

    from trainer.engine.base import Engine
    from trainer.engine.config import EngineConfig, OptimizerConfig
    from trainer.engine.process_group import ProcessGroup


def create_engine(
    model: nn.Module, processes: ProcessGroup, engine: EngineConfig, optimizer: OptimizerConfig
) -> Engine:
    """Spreads `model` (in host memory, the same on every rank) over `processes`, which stay the caller's to leave."""
    # Each of the libraries takes seconds to import, so only the one in use is imported.
    if engine.kind == "ddp":
        from trainer.engine.accelerate_engine import AccelerateEngine

        return AccelerateEngine(model, processes, engine, optimizer)
    from trainer.engine.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, processes, engine, optimizer)
