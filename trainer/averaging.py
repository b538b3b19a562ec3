"""Averaging the last checkpoints of a run, as the paper does for its results (section 6.1)."""

from pathlib import Path

from torch import Tensor

from trainer import configuration
from trainer.checkpoint import list_checkpoints, read_weights, verify
from trainer.configuration import CONFIG_FILE
from trainer.data.tokenizer import TokenizerPair
from trainer.errors import UserError
from trainer.model_directory import build_model, put_weights, refuse_existing, save_model_directory


def average(run_directory: Path, last: int, output: Path) -> None:
    """Writes to `output` a model directory with the mean, in fp32, of the weights of the last `last` checkpoints.

    Holds two sets of weights at a time. Raises UserError where the run has fewer checkpoints or one is damaged.
    """
    refuse_existing(output)
    config = configuration.load(run_directory / CONFIG_FILE)
    tokenizers = TokenizerPair.load(run_directory)
    weights = mean_weights(choose(run_directory, last))
    model = build_model(config, tokenizers)
    put_weights(model, weights, run_directory)
    save_model_directory(output, dict(model.named_parameters()), config, tokenizers)


def choose(run_directory: Path, last: int) -> list[Path]:
    """The last `last` checkpoints, each verified."""
    if last < 1:
        raise UserError(f"--last must be at least 1, but is {last}.")
    checkpoints = list_checkpoints(run_directory)
    if len(checkpoints) < last:
        raise UserError(
            f"--last is {last}, but the run directory {run_directory} has {len(checkpoints)} published checkpoints: "
            "average fewer, or keep more of them with `checkpoint.keep_last`."
        )
    for checkpoint in checkpoints[-last:]:
        if problems := verify(checkpoint):
            raise UserError(f"the checkpoint {checkpoint} is damaged ({'; '.join(problems)}): remove it.")
    return checkpoints[-last:]


def mean_weights(checkpoints: list[Path]) -> dict[str, Tensor]:
    """The arithmetic mean of each weight, as `read_weights` gives it."""
    total = read_weights(checkpoints[0])
    for checkpoint in checkpoints[1:]:
        for name, weight in read_weights(checkpoint).items():
            total[name] += weight
    return {name: weight / len(checkpoints) for name, weight in total.items()}
