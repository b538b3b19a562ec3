"""Resuming: the checkpoint to resume from, and putting engine and data where it left them."""

import sys
from pathlib import Path

from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.data.feeding.feed import TrainingData
from trainer.engine.base import Engine
from trainer.errors import UserError
from trainer.run_directory.layout import CHECKPOINTS, LANES_DOCUMENT, list_checkpoints


def newest_verified(engine: Engine, run_directory: Path) -> Path | None:
    """The newest checkpoint that verifies; None for a run that has none yet. A collective.

    Renames damaged ones that are newer and prints what is wrong with them. Raises UserError, and renames nothing, if
    all are damaged: to start from the beginning would lose the run.
    """
    if engine.rank == 0:
        checkpoint.remove_leftovers(run_directory)
    names = engine.gather([path.name for path in list_checkpoints(run_directory)])[0]
    damaged: dict[Path, str] = {}
    for name in reversed(names):
        path = run_directory / CHECKPOINTS / name
        found = engine.gather(checkpoint.verify(path, engine.rank, engine.world_size))
        problems = sorted({problem for problems_of_rank in found for problem in problems_of_rank})
        if not problems:
            if engine.rank == 0:
                _set_aside(damaged)
            return path
        damaged[path] = "; ".join(problems)
    if damaged:
        newest = next(iter(damaged))
        raise UserError(
            f"the checkpoint {newest} is damaged ({damaged[newest]}) and there is no sound one before it: restore it "
            f"from a copy, or start again with another `run.directory`."
        )
    return None


def _set_aside(damaged: dict[Path, str]) -> None:
    for path, problems in damaged.items():
        aside = checkpoint.set_aside(path)
        print(f"the checkpoint {path} is damaged: {problems}; it is now {aside.name}", file=sys.stderr)


def restore(path: Path, engine: Engine, data: TrainingData, tokenizer: str) -> TrainerDocument:
    """Puts engine and data where the checkpoint left them, whatever ranks and engine wrote it.

    `tokenizer` is the fingerprint of the tokenizers that are in use now. Raises UserError if they are not those of the
    checkpoint, or if the order of the data is another one.
    """
    document = TrainerDocument.read(path)
    document.require_tokenizer(tokenizer, path)
    data.load_state(checkpoint.read_document(path, LANES_DOCUMENT))
    engine.load_fragments(checkpoint.fragment_files(path))
    return document


def restore_engine(path: Path, engine: Engine) -> TrainerDocument:
    """Puts the engine alone where the checkpoint left it, for a rollback that passes over the data read since."""
    engine.load_fragments(checkpoint.fragment_files(path))
    return TrainerDocument.read(path)
