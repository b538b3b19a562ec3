"""Which checkpoints of a run are kept."""

from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoints.directory import read_document, remove
from trainer.configuration.sections import CheckpointConfig
from trainer.run_directory.layout import TRAINER_DOCUMENT, checkpoint_step, list_checkpoints


def apply_retention(run_directory: Path, config: CheckpointConfig, metric: str) -> list[str]:
    """Removes the checkpoints that `config` does not keep. Returns those that could not be removed, a sentence each."""
    checkpoints = list_checkpoints(run_directory)
    kept = {*checkpoints[-config.keep_last :], *best_first(checkpoints, metric)[: config.keep_best]}
    if config.keep_every:
        kept |= {path for path in checkpoints if checkpoint_step(path) % config.keep_every == 0}
    complaints = []
    for path in checkpoints:
        try:
            if path not in kept:
                remove(path)
        except OSError as error:
            complaints.append(f"{path.name}: {error}")
    return complaints


def best_first(checkpoints: Sequence[Path], metric: str) -> list[Path]:
    """The checkpoints that were validated by `metric`, the highest score first; of equal scores the oldest first."""
    scores = {path: _score(path, metric) for path in sorted(checkpoints)}
    return sorted((p for p in scores if scores[p] is not None), key=lambda p: scores[p] or 0.0, reverse=True)


def _score(checkpoint: Path, metric: str) -> float | None:
    """None if the checkpoint was not validated, or by another metric, or cannot be read."""
    try:
        document = read_document(checkpoint, TRAINER_DOCUMENT)
        return document["score"] if document["metric"] == metric else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
