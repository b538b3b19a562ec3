"""What a run does about memory.

Before its first step it rehearses the largest micro-batch there can be, so that too large a budget fails in the first
minute. Where memory runs out later, the engine computes a micro-batch in parts; where it cannot (the collectives of
ZeRO cannot be taken back once they have begun), the run ends, and RUN/memory.json has the next start compute every
micro-batch in parts. Either way every sentence is learnt from, and a step is what it was: sums over the same tokens.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.configuration.sections import Config
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import Engine, LossFunction
from trainer.errors import OutOfMemory, UserError
from trainer.files import write_atomically
from trainer.run_directory.layout import MEMORY

MAX_PARTS = 16
# Shares of the budget that are rehearsed in turn, so that one that fits can be named.
_RUNGS = (1 / 16, 1 / 4, 1 / 2, 1.0)


def rehearse(
    engine: Engine, largest: Callable[[float], MicroBatch | None], loss_fn: LossFunction, config: Config, parts: int
) -> None:
    """Makes steps of the largest micro-batches, each in so many `parts`, that change nothing; a collective.

    `largest` makes one with a share of the budget, None where that is too small for any. Raises UserError, with what
    does fit, where the whole budget does not.
    """
    data, tried = config.data, list[int]()
    per_rank = data.micro_batches_per_step // engine.world_size
    for share in _RUNGS:
        micro_batch = largest(share)
        if micro_batch is None or micro_batch.num_pairs < parts:
            continue
        # A second backward adds to gradients that are there already: nothing later takes more.
        micro_batches = in_parts([micro_batch] * min(per_rank, 2), parts)
        tried.append(round(share * data.max_tokens))
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
        f"zero3 spare memory, too ({error})."
    )


def in_parts(micro_batches: Sequence[MicroBatch], number: int) -> list[MicroBatch]:
    """Each micro-batch in `number` parts. Raises UserError where one has fewer sentences."""
    try:
        return [part for micro_batch in micro_batches for part in micro_batch.parts(number)]
    except ValueError as error:
        raise UserError(
            f"memory ran out, and micro-batches cannot be cut into {number} parts ({error}): choose a smaller model, "
            "or spread it over more processes."
        ) from error


def num_parts(config: Config) -> int:
    """In how many parts each micro-batch is computed: 1, or more where a run of this budget ran out of memory."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(_path(config).read_text(encoding="utf-8"))
        if found["max_tokens"] == config.data.max_tokens:
            return int(found["parts"])
    return 1


def remember_parts(config: Config, parts: int) -> None:
    """Has the next start compute each micro-batch in that many parts. Raises UserError where they would be too many."""
    if parts > MAX_PARTS:
        raise UserError(
            f"memory runs out although every micro-batch of `data.max_tokens` ({config.data.max_tokens}) is computed "
            f"in {MAX_PARTS} parts: something else must take it; look at the machine, then remove {_path(config)}."
        )
    write_atomically(_path(config), json.dumps({"max_tokens": config.data.max_tokens, "parts": parts}))


def _path(config: Config) -> Path:
    return Path(config.run.directory) / MEMORY
