"""The range of each single setting. `check_rules` also applies the rules that join several settings."""

import math
from collections.abc import Callable
from typing import Any

from trainer.configuration.corpus_rules import check_corpora
from trainer.configuration.joint_rules import check_joint_rules
from trainer.configuration.sections import Config, settings
from trainer.errors import UserError

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value keeps the rule, and the rule in words."""


def _at_least(least: float) -> Rule:
    return lambda value: value >= least, f"at least {least:g}"


_POSITIVE: Rule = (lambda value: value > 0, "greater than 0")
_FRACTION: Rule = (lambda value: 0 <= value < 1, "at least 0 and less than 1")

RANGES: dict[str, Rule] = {
    "run.directory": (bool, "the name of a folder"),
    "run.seed": (lambda value: 0 <= value < 2**63, "at least 0 and less than 2^63"),
    "run.max_steps": _at_least(1),
    "model.d_model": (lambda value: value >= 2 and value % 2 == 0, "even and at least 2 (sines and cosines in pairs)"),
    "model.d_ff": _at_least(1),
    "model.num_heads": _at_least(1),
    "model.num_encoder_layers": _at_least(1),
    "model.num_decoder_layers": _at_least(1),
    "model.dropout": _FRACTION,
    "model.attention_dropout": _FRACTION,
    "tokenizer.vocab_size": (lambda value: value >= 16, "at least 16 (four special pieces and some characters)"),
    "tokenizer.character_coverage": (
        lambda value: 0.98 <= value <= 1,
        "at least 0.98 and at most 1 (SentencePiece's limits)",
    ),
    "tokenizer.max_training_pairs": _at_least(1),
    "data.train": (bool, "a list of at least one corpus"),
    "data.temperature": _POSITIVE,
    "data.filters.max_length_ratio": _at_least(1),
    "data.filters.min_letters": (lambda value: 0 <= value <= 1, "at least 0 and at most 1, or null"),
    "data.filters.language_id": (
        lambda value: all(value.rpartition(":")[::2]),
        "the address of a function, module:function or path/file.py:function",
    ),
    "data.max_length": (lambda value: value >= 2, "at least 2 (one piece and the end of the sentence)"),
    "data.micro_batches_per_step": _at_least(1),
    "data.num_lanes": _at_least(1),
    "data.window": (lambda value: 1 <= value <= 1 << 20, "at least 1 and at most 1,048,576 (memory in every lane)"),
    "data.prefetch": _at_least(1),
    "data.workers": _at_least(1),
    "optimizer.peak_lr": _POSITIVE,
    "optimizer.final_lr": _at_least(0),
    "optimizer.betas": (lambda values: all(0 <= value < 1 for value in values), "two numbers in [0, 1)"),
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": _at_least(0),
    "optimizer.clip": _at_least(0),
    "optimizer.warmup_steps": _at_least(0),
    "optimizer.label_smoothing": _FRACTION,
    "engine.activation_checkpointing": (
        lambda value: isinstance(value, str) or value >= 1,
        "none, full, or a whole number that is at least 1",
    ),
    "engine.timeout_minutes": _POSITIVE,
    "bad_steps.spike_threshold": _POSITIVE,
    "bad_steps.max_in_a_row": _at_least(1),
    "bad_steps.max_rollbacks": _at_least(0),
    "bad_steps.lr_factor": (lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
    "hang.factor": _at_least(1),
    "hang.minutes": _POSITIVE,
    "hang.phase_minutes": _POSITIVE,
    "checkpoint.every_steps": _at_least(1),
    "checkpoint.every_minutes": _POSITIVE,
    "checkpoint.keep_last": _at_least(1),
    "checkpoint.keep_best": _at_least(0),
    "checkpoint.keep_every": _at_least(0),
    "checkpoint.max_failed_saves": _at_least(1),
    "evaluation.every_steps": _at_least(1),
    "evaluation.beam_size": _at_least(1),
    "evaluation.length_penalty": _at_least(0),
    "evaluation.max_sentences": _at_least(0),
    "evaluation.patience": _at_least(0),
    "tracking.every_steps": _at_least(1),
}
"""What the value of a setting must be, by its path. null (the setting is not used) is always allowed."""


def check_rules(config: Config) -> None:
    """Raises UserError for the first rule that the configuration breaks."""
    for path, value in settings(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"`{path}` must be a finite number, but is {value}.")
        holds, rule = RANGES.get(path, (lambda value: True, ""))
        if value is not None and not holds(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"`{path}` must be {rule}, but is {shown!r}.")
    check_corpora(config.data)
    check_joint_rules(config)
