"""Averages the last checkpoints of a run, as the paper does for its results (section 6.1)."""

from pathlib import Path

from torch import Tensor

from trainer.checkpoints.directory import read_weights, verify
from trainer.checkpoints.retention import best_first
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration import reading as configuration
from trainer.data.text.tokenizer import TokenizerPair
from trainer.errors import UserError
from trainer.inference.model_directory import build_model, put_weights, refuse_existing, save_model_directory
from trainer.run_directory.layout import config_path, list_checkpoints


def average(run_directory: Path, number: int, output: Path, best: bool = False) -> None:
    """Writes to `output` a model directory with the mean, in fp32, of the weights of `number` checkpoints.

    They are the last ones, or with `best` those with the highest validation score. Holds two sets of weights at a time.
    Raises UserError if the run has fewer such checkpoints, or if one is damaged.
    """
    refuse_existing(output)
    config = configuration.load_resolved(config_path(run_directory))
    tokenizers = TokenizerPair.load(run_directory)
    checkpoints = list_checkpoints(run_directory)
    if best:
        checkpoints = best_first(checkpoints, config.evaluation.metric)[::-1]
    chosen = _choose(checkpoints, number, "best" if best else "last", run_directory)
    for checkpoint in chosen:
        TrainerDocument.read(checkpoint).require_tokenizer(tokenizers.fingerprint, checkpoint)
    weights = mean_weights(chosen)
    model = build_model(config, tokenizers)
    put_weights(model, weights, run_directory)
    save_model_directory(output, dict(model.named_parameters()), config, tokenizers)


def _choose(checkpoints: list[Path], number: int, kind: str, run_directory: Path) -> list[Path]:
    """Returns the last `number` of the list, each verified. `kind` is the option by which the user asked for them."""
    if len(checkpoints) < number:
        what = "published checkpoints that were validated" if kind == "best" else "published checkpoints"
        raise UserError(
            f"--{kind} is {number}, but the run directory {run_directory} has {len(checkpoints)} {what}: average "
            f"fewer, or keep more of them with `checkpoint.keep_{kind}`."
        )
    for checkpoint in checkpoints[-number:]:
        if problems := verify(checkpoint):
            raise UserError(f"the checkpoint {checkpoint} is damaged ({'; '.join(problems)}): remove it.")
    return checkpoints[-number:]


def mean_weights(checkpoints: list[Path]) -> dict[str, Tensor]:
    """Returns the arithmetic mean of each weight, in the form that `read_weights` returns."""
    total = read_weights(checkpoints[0])
    for checkpoint in checkpoints[1:]:
        for name, weight in read_weights(checkpoint).items():
            total[name] += weight
    return {name: weight / len(checkpoints) for name, weight in total.items()}
