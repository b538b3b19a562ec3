"""Which part of the training data each process reads."""

from typing import NamedTuple

from trainer.data.config import DataConfig
from trainer.errors import UserError


class Partition(NamedTuple):
    """The part of process `rank` out of `world_size`: micro-batches and lanes with index ≡ rank mod `world_size`."""

    rank: int
    world_size: int


def check_world_size(config: DataConfig, world_size: int) -> None:
    """Raises UserError if lanes or micro-batches cannot be divided evenly among `world_size` processes."""
    lanes, micro_batches = config.num_lanes, config.micro_batches_per_step
    if lanes % world_size or micro_batches % world_size:
        fitting = [str(w) for w in range(1, min(lanes, micro_batches) + 1) if lanes % w == 0 and micro_batches % w == 0]
        raise UserError(
            f"{world_size} processes cannot share `data.num_lanes` ({lanes}) and `data.micro_batches_per_step` "
            f"({micro_batches}) evenly: both must be multiples of it, so start {_any_of(fitting)} or change them."
        )


def _any_of(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
