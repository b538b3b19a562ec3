"""The largest micro-batch there can be, tried before the first step, so that too large a budget fails at once."""

from collections.abc import Callable

from trainer.configuration.sections import Config
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import Engine, LossFunction
from trainer.errors import OutOfMemory, UserError
from trainer.training.micro_batch_parts import in_parts

# Fractions of the budget, tried in this order, so that one that fits can be named.
_FRACTIONS = (1 / 16, 1 / 4, 1 / 2, 1.0)


def rehearse(
    engine: Engine, largest: Callable[[float], MicroBatch | None], loss_fn: LossFunction, config: Config, parts: int
) -> None:
    """Makes steps of the largest micro-batches, each in `parts` parts. Changes nothing; a collective.

    `largest` returns the largest micro-batch of a fraction of the budget, or None if no sentence fits into that.
    Raises UserError, naming what fits, if the whole budget does not.
    """
    data, tried = config.data, list[int]()
    per_rank = data.micro_batches_per_step // engine.world_size
    for fraction in _FRACTIONS:
        micro_batch = largest(fraction)
        if micro_batch is None or micro_batch.num_pairs < parts:
            continue
        # A second backward adds to gradients that are there already: nothing later takes more.
        micro_batches = in_parts([micro_batch] * min(per_rank, 2), parts)
        tried.append(round(fraction * data.max_tokens))
        try:
            engine.rehearse(micro_batches, loss_fn)
        except OutOfMemory as error:
            raise UserError(_refusal(config, engine.rank, tried, error)) from error


def _refusal(config: Config, rank: int, tried: list[int], error: OutOfMemory) -> str:
    *fitting, too_large = tried
    if fitting:
        factor = config.data.max_tokens // fitting[-1]
        remedy = (
            f"{fitting[-1]} fits, so set that and `data.micro_batches_per_step` to "
            f"{config.data.micro_batches_per_step * factor}, which leaves a step as large as it is"
        )
    else:
        remedy = "choose a smaller model, or spread it over more processes"
    return (
        f"`data.max_tokens` is {config.data.max_tokens}, but micro-batches of {too_large} target tokens do not fit "
        f"into the memory of rank {rank}: {remedy}; `engine.activation_checkpointing` full and `engine.kind` zero2 or "
        f"zero3 also save memory ({error})."
    )
