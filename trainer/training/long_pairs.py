"""Validation pairs that are too long to validate on as a whole.

Attention takes memory with the square of a sentence's length. A training micro-batch holds `data.max_tokens` tokens in
sentences of at most `data.max_length`, so a single sentence of sqrt(max_tokens * max_length) tokens needs no more.
"""

from dataclasses import replace
from math import isqrt

from trainer.data.config import DataConfig
from trainer.data.preparation.validation import ValidationSet
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair


def longest_allowed(data: DataConfig) -> int:
    """The most tokens, eos included, that a sentence of a validation set may have."""
    return isqrt(data.max_tokens * data.max_length)


def cut_long_pairs(
    validation: ValidationSet, tokenizers: TokenizerPair, max_tokens: int
) -> tuple[ValidationSet, list[int]]:
    """Cuts sentences of more than `max_tokens` tokens, text and ids. Returns the set and the line numbers, from 1."""
    sources, references, pairs = list(validation.sources), list(validation.references), list(validation.pairs)
    lines = [n for n, pair in enumerate(pairs) if max(map(len, pair)) > max_tokens]
    for n in lines:
        sources[n], source_ids = _cut(sources[n], pairs[n][0], tokenizers.source, max_tokens)
        references[n], target_ids = _cut(references[n], pairs[n][1], tokenizers.target, max_tokens)
        pairs[n] = source_ids, target_ids
    if not lines:
        return validation, []
    return replace(validation, sources=sources, references=references, pairs=pairs), [n + 1 for n in lines]


def _cut(text: str, ids: list[int], tokenizer: Tokenizer, max_tokens: int) -> tuple[str, list[int]]:
    if len(ids) <= max_tokens:
        return text, ids
    kept = ids[: max_tokens - 1]
    return tokenizer.decode([kept])[0], [*kept, tokenizer.eos_id]


def describe_cut(name: str, lines: list[int], max_tokens: int) -> str:
    """Which pairs of a set were cut, for the user."""
    more = f", and so are {len(lines) - 1} more, up to line {lines[-1]}" if len(lines) > 1 else ""
    return (
        f"line {lines[0]} of {name} is longer than {max_tokens} tokens, the square root of `data.max_tokens` times "
        f"`data.max_length`{more}: only the beginning is validated on"
    )
