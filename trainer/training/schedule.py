"""Learning-rate schedules: pure functions of the update number, so that a checkpoint holds no state of them."""

import math

from trainer.configuration.sections import Config
from trainer.engine.config import OptimizerConfig

_JUMP = 1.5  # times the rate of before, and a hundredth of the peak, is worth a warning


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


def schedule_warnings(config: Config, num_updates: int, former_rate: float | None, lr_scale: float = 1.0) -> list[str]:
    """What a user may not expect of the learning rate after `num_updates` updates, a sentence each.

    `former_rate` is the rate of the last update before, None if that is not known or this start is the first;
    `lr_scale` multiplies the rate.
    """
    optimizer, max_steps = config.optimizer, config.run.max_steps
    found = []
    if optimizer.warmup_steps > max_steps:
        highest = learning_rate(optimizer, max_steps, max_steps)
        found.append(
            f"`optimizer.warmup_steps` is {optimizer.warmup_steps}, but `run.max_steps` is {max_steps}: the learning "
            f"rate only rises, up to {highest:.2g} instead of `optimizer.peak_lr` ({optimizer.peak_lr:.2g})."
        )
    if former_rate is None or num_updates == 0:
        return found
    now, following = (lr_scale * learning_rate(optimizer, num_updates + n, max_steps) for n in (0, 1))
    if now > _JUMP * former_rate and now - former_rate > optimizer.peak_lr / 100:
        found.append(
            f"the learning rate jumps from {former_rate:.2g} to {following:.2g}, because `run.max_steps` ({max_steps}) "
            "or a setting of `optimizer` has changed since the checkpoint; a lower `optimizer.peak_lr` "
            f"({optimizer.peak_lr:.2g}) makes the jump smaller."
        )
    return found
