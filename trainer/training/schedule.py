"""Learning-rate schedules: pure functions of the update number, so there is nothing to save."""

import math

from trainer.engine.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, update: int, max_steps: int) -> float:
    """The rate of update number `update` (1, 2, …); `inverse_sqrt` is equation 3 of the paper, scaled to its peak."""
    if update < config.warmup_steps:
        return config.peak_lr * update / config.warmup_steps
    if config.schedule == "constant":
        return config.peak_lr
    if config.schedule == "inverse_sqrt":
        return config.peak_lr * math.sqrt(max(config.warmup_steps, 1) / update)
    progress = min(1.0, (update - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    shape = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr + (config.peak_lr - config.final_lr) * shape
