"""The rules that a configuration must keep beyond the types of its values."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from trainer.configuration.sections import Config
from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import corpus_name
from trainer.errors import UserError


def _at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= least, f"at least {least:g}"


_USER_SYMBOL = re.compile(r"[^\s\x00-\x1f\x7f▁]+")
_RESERVED_PIECE = re.compile(r"<pad>|<unk>|</?s>|<0x[0-9A-F]{2}>")
_POSITIVE = (lambda value: value > 0, "greater than 0")
_FRACTION = (lambda value: 0 <= value < 1, "at least 0 and less than 1")

# What a single value must be, by its path. A value of None (the setting is not used) is not looked at.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
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
    "tokenizer.character_coverage": (lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
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


def check_rules(config: Config) -> None:
    """Raises a `UserError` for the first rule that the configuration breaks."""
    for path, value in settings(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"`{path}` must be a finite number, but is {value}.")
        holds, rule = _RANGES.get(path, (lambda value: True, ""))
        if value is not None and not holds(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"`{path}` must be {rule}, but is {shown!r}.")
    _check_model(config)
    _check_tokenizer(config)
    _check_batches(config)
    _check_corpora(config)
    _check_filters(config)
    _check_schedule(config)
    _check_engine(config)
    _check_evaluation(config)


def _check_model(config: Config) -> None:
    model = config.model
    if model.d_model % model.num_heads:
        raise UserError(
            f"`model.d_model` must be a multiple of `model.num_heads` ({model.num_heads}), so that every head has the "
            f"same width, but is {model.d_model}."
        )
    if model.tied_embeddings == "all" and not config.tokenizer.joint:
        raise UserError(
            "`model.tied_embeddings` must be decoder or none where `tokenizer.joint` is false and each language has a "
            "vocabulary of its own, but is all."
        )


def _check_tokenizer(config: Config) -> None:
    tokenizer = config.tokenizer
    if tokenizer.joint and tokenizer.target_path is not None:
        raise UserError(
            f"`tokenizer.target_path` must be null where `tokenizer.joint` is true and `tokenizer.path` serves both "
            f"languages, but is {tokenizer.target_path}."
        )
    if not tokenizer.joint and (tokenizer.path is None) != (tokenizer.target_path is None):
        missing, other = ("path", "target_path") if tokenizer.path is None else ("target_path", "path")
        raise UserError(
            f"`tokenizer.{missing}` is missing: with `tokenizer.joint` false it belongs to `tokenizer.{other}` "
            f"({getattr(tokenizer, other)}), one model for each language."
        )
    if tokenizer.sampling is not None:
        _check_sampling(config, tokenizer.sampling)
    _check_user_symbols(config)


def _check_sampling(config: Config, sampling: float) -> None:
    if config.data.mode != "stream":
        raise UserError(
            f"`tokenizer.sampling` must be null where `data.mode` is {config.data.mode}, which keeps one segmentation "
            f"of each sentence, but is {sampling}; take `data.mode` stream."
        )
    if config.tokenizer.kind == "bpe" and not 0 < sampling < 1:
        raise UserError(f"`tokenizer.sampling` must be greater than 0 and less than 1 for bpe, but is {sampling}.")
    if config.tokenizer.kind == "unigram" and not 0 < sampling <= 1:
        raise UserError(f"`tokenizer.sampling` must be greater than 0 and at most 1 for unigram, but is {sampling}.")


def _check_user_symbols(config: Config) -> None:
    symbols = config.tokenizer.user_symbols
    if symbols and config.tokenizer.path is not None:
        raise UserError(
            f"`tokenizer.user_symbols` must be empty where `tokenizer.path` names a model that is trained already, but "
            f"is {list(symbols)}."
        )
    for symbol, count in Counter(symbols).items():
        if count > 1:
            raise UserError(
                f"`tokenizer.user_symbols` must name each symbol once, but {symbol!r} occurs {count} times."
            )
        # The library would take these for its own pieces, its word boundary or the end of a text.
        if not _USER_SYMBOL.fullmatch(symbol) or _RESERVED_PIECE.fullmatch(symbol):
            raise UserError(
                "`tokenizer.user_symbols` must be pieces of text without white space or control characters, and not "
                f"<pad>, <unk>, <s>, </s>, <0x00> to <0xFF> or the word boundary ▁, but one is {symbol!r}."
            )


def _check_batches(config: Config) -> None:
    data = config.data
    for name, value in (("max_tokens", data.max_tokens), ("max_source_tokens", data.max_source_tokens)):
        if value is not None and value < data.max_length:
            raise UserError(
                f"`data.{name}` must be at least `data.max_length` ({data.max_length}), so that one pair fits in a "
                f"batch, but is {value}."
            )


def _check_corpora(config: Config) -> None:
    for path in ("train", "valid"):
        for index, corpus in enumerate(getattr(config.data, path)):
            _check_corpus(f"data.{path}.{index}", corpus)
    names = Counter(map(corpus_name, config.data.valid))
    for name, count in names.items():
        if count > 1:
            raise UserError(
                f"`data.valid` must give every corpus its own `name`, because scores are reported under it, "
                f"but {name!r} occurs {count} times."
            )


def _check_corpus(path: str, corpus: CorpusConfig) -> None:
    if (corpus.source is None) != (corpus.target is None):
        missing, other = ("source", "target") if corpus.source is None else ("target", "source")
        raise UserError(
            f"`{path}.{missing}` is missing: text of one language alone is no corpus, so give the file that goes line "
            f"by line with `{path}.{other}`."
        )
    ways = ("source", "tsv", "jsonl", "parquet", "hub", "builtin")
    named = {"source": "`source` and `target`"} | {way: f"`{way}`" for way in ways[1:]}
    given = [way for way in ways if getattr(corpus, way) is not None]
    if len(given) != 1:
        raise UserError(
            f"`{path}` must name its text in exactly one way, {', '.join(named.values())}, but gives "
            f"{' and '.join(named[way] for way in given) or 'none of them'}."
        )
    _check_choice_of_text(path, corpus, given[0])
    _check_columns(path, corpus, given[0])
    if not 0 < corpus.weight < math.inf:
        raise UserError(
            f"`{path}.weight` must be greater than 0, but is {corpus.weight}; leave the corpus out instead."
        )
    if corpus.limit is not None and corpus.limit < 1:
        raise UserError(f"`{path}.limit` must be at least 1, or null for all pairs, but is {corpus.limit}.")


def _check_choice_of_text(path: str, corpus: CorpusConfig, way: str) -> None:
    """Settings that choose a part of what was named belong to the ways of naming that have such parts."""
    meaning = {
        "columns": ("tsv", "jsonl", "parquet", "hub"),
        "languages": ("jsonl", "parquet", "hub"),
        "config": ("hub",),
        "split": ("hub", "builtin"),
    }
    for setting, ways in meaning.items():
        value, default = getattr(corpus, setting), "train" if setting == "split" else None
        if value != default and way not in ways:
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(
                f"`{path}.{setting}` is {shown!r}, but means nothing where the text is named by `{way}`, only by "
                f"{', '.join(ways)}: remove it."
            )
    if way in meaning["languages"]:
        given = [name for name in ("columns", "languages") if getattr(corpus, name) is not None]
        if len(given) != 1:
            raise UserError(
                f"`{path}.languages` {'is missing' if not given else 'and `columns` are both given'}: name what to "
                f"read by one of `languages`, such as [en, de] of the column `translation`, and `columns`."
            )


def _check_columns(path: str, corpus: CorpusConfig, way: str) -> None:
    columns = corpus.columns or corpus.languages
    if columns is None:
        return
    setting = "columns" if corpus.columns else "languages"
    if columns[0] == columns[1]:
        raise UserError(f"`{path}.{setting}` must be [source, target], two different ones, but is {list(columns)}.")
    numbered = [column for column in columns if isinstance(column, int)]
    if numbered and (way != "tsv" or len(numbered) == 1 or min(numbered) < 1):
        rule = "two names, or two numbers from 1" if way == "tsv" else f"two names, as columns of `{way}` have them"
        raise UserError(f"`{path}.columns` must be {rule}, but is {list(columns)}.")


def _check_filters(config: Config) -> None:
    filters = config.data.filters
    if (filters.language_id is None) != (filters.languages is None):
        missing, given = ("languages", "language_id") if filters.languages is None else ("language_id", "languages")
        raise UserError(
            f"`data.filters.{missing}` must be given where `data.filters.{given}` is: language_id tells the language "
            "of a text, languages = [source, target] are those that pairs must have."
        )


def _check_schedule(config: Config) -> None:
    optimizer = config.optimizer
    if optimizer.final_lr > optimizer.peak_lr:
        raise UserError(
            f"`optimizer.final_lr` must be at most `optimizer.peak_lr` ({optimizer.peak_lr}), because the rate falls "
            f"to it, but is {optimizer.final_lr}."
        )


def _check_engine(config: Config) -> None:
    engine = config.engine
    if engine.offload != "none" and engine.kind == "ddp":
        raise UserError(
            f"`engine.offload` must be none where `engine.kind` is ddp, which shards nothing, but is "
            f"{engine.offload}; take zero1, zero2 or zero3."
        )


def _check_evaluation(config: Config) -> None:
    evaluation = config.evaluation
    if config.data.valid and evaluation.max_sentences == 0 and evaluation.metric != "nll":
        raise UserError(
            f"`evaluation.metric` must be nll where `evaluation.max_sentences` is 0 and nothing is translated, "
            f"but is {evaluation.metric}."
        )
    if evaluation.patience and not config.data.valid:
        raise UserError(
            f"`evaluation.patience` must be 0 where `data.valid` names no corpus to judge by, but is "
            f"{evaluation.patience}."
        )


def settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every setting, depth first; a list of corpora is one setting."""
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value
