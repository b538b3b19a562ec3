"""Micro-batches in smaller parts, for a run that is short of memory.

If memory runs out in a step, the engine computes the micro-batch in parts. If it cannot, because the collectives of
ZeRO cannot be repeated once they have begun, the run ends, and RUN/memory.json makes the next start compute every
micro-batch in parts. Either way a step is the same: sums over the same tokens.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.configuration.sections import Config
from trainer.data.feeding.packing import MicroBatch
from trainer.errors import UserError
from trainer.files import write_atomically
from trainer.run_directory.layout import MEMORY

MAX_PARTS = 16


def in_parts(micro_batches: Sequence[MicroBatch], number: int) -> list[MicroBatch]:
    """Splits each micro-batch into `number` parts. Raises UserError if one has fewer sentences."""
    try:
        return [part for micro_batch in micro_batches for part in micro_batch.parts(number)]
    except ValueError as error:
        raise UserError(
            f"memory ran out, and micro-batches cannot be cut into {number} parts ({error}): choose a smaller model, "
            "or spread it over more processes."
        ) from error


def num_parts(config: Config) -> int:
    """In how many parts each micro-batch is computed: 1, or more if a run with this budget ran out of memory."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(_path(config).read_text(encoding="utf-8"))
        if found["max_tokens"] == config.data.max_tokens:
            return int(found["parts"])
    return 1


def remember_parts(config: Config, parts: int) -> None:
    """Makes the next start compute each micro-batch in `parts` parts. Raises UserError if those are too many."""
    if parts > MAX_PARTS:
        raise UserError(
            f"memory runs out although every micro-batch of `data.max_tokens` ({config.data.max_tokens}) is computed "
            f"in {MAX_PARTS} parts: find out what else takes memory on this machine, then remove {_path(config)}."
        )
    write_atomically(_path(config), json.dumps({"max_tokens": config.data.max_tokens, "parts": parts}))


def _path(config: Config) -> Path:
    return Path(config.run.directory) / MEMORY
