"""Rules between several settings."""

import re
from collections import Counter

from trainer.configuration.sections import Config
from trainer.data.config import TokenizerConfig
from trainer.errors import UserError

_USER_SYMBOL = re.compile(r"[^\s\x00-\x1f\x7f▁]+")
_RESERVED_PIECE = re.compile(r"<pad>|<unk>|</?s>|<0x[0-9A-F]{2}>")


def check_joint_rules(config: Config) -> None:
    """Raises UserError for the first pair of settings that do not fit each other."""
    _check_model(config)
    _check_tokenizer(config)
    _check_batches(config)
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
    if tokenizer.path is not None and tokenizer.normalization != TokenizerConfig.normalization:
        raise UserError(
            f"`tokenizer.normalization` must be left out where `tokenizer.path` ({tokenizer.path}) names a model, "
            f"which has its own rule, but is {tokenizer.normalization}."
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


def _check_filters(config: Config) -> None:
    filters = config.data.filters
    if (filters.language_id is None) != (filters.languages is None):
        missing, given = ("languages", "language_id") if filters.languages is None else ("language_id", "languages")
        raise UserError(
            f"`data.filters.{missing}` must be given where `data.filters.{given}` is: language_id finds the language "
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
