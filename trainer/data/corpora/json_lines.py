"""Parallel text in JSON lines: one object per line."""

import json
from collections.abc import Iterator
from typing import Any

from trainer.data.config import CorpusConfig
from trainer.data.corpora.compressed_files import find_files
from trainer.data.corpora.lines import line_blocks
from trainer.errors import UserError, error_line

_MAX_DIGITS = 4000


def read_jsonl(corpus: CorpusConfig) -> Iterator[tuple[list[str], list[str]]]:
    """Yields blocks of pairs from the keys `columns`, or from the entries `languages` of an object `translation`.

    A null is an empty text; blank lines are left out. Raises UserError, which names file and line, for a line without
    two texts.
    """
    assert corpus.jsonl is not None
    for path in find_files(corpus.jsonl):
        lines_before = 0
        for lines in line_blocks(path):
            try:
                yield _read_block(lines, corpus)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                # Searches the line again, so that reading sound lines does not have to count.
                for number, line in enumerate(lines, lines_before + 1):
                    if line.strip():
                        _check_line(line, corpus, f"{path}, line {number}")
                raise
            lines_before += len(lines)


def _read_block(lines: list[str], corpus: CorpusConfig) -> tuple[list[str], list[str]]:
    first, second = corpus.columns or corpus.languages or ("", "")
    rows = [_decode(line) for line in lines if line.strip()]
    if corpus.languages:
        rows = [row.get("translation", row) for row in rows]
    sources, targets = ([_text(row[key]) for row in rows] for key in (first, second))
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot.
    "".join(sources).encode(), "".join(targets).encode()
    return sources, targets


def _integer(digits: str) -> int | float:
    """Python refuses integers of more than 4,300 digits. They are next to the texts, so their value does not matter."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_decode = json.JSONDecoder(parse_int=_integer).decode


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value


def _check_line(line: str, corpus: CorpusConfig, place: str) -> None:
    """Raises UserError if the line does not have two texts."""
    try:
        row = _decode(line)
    except RecursionError:
        raise UserError(
            f"{place} nests lists or objects too deeply to be read: write one flat object per line."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{place} is not valid JSON ({error_line(error, with_type=False)}): write one object per line."
        ) from None
    if corpus.languages and isinstance(row, dict):
        row = row.get("translation", row)
    if not isinstance(row, dict):
        raise UserError(f"{place} holds {_shown(row)}, which is no JSON object with keys.")
    for key in corpus.columns or corpus.languages or ():
        if key not in row:
            raise UserError(
                f"{place} has no key {key!r}, but {_shortened(', '.join(map(repr, row))) or 'none at all'}."
            )
        if row[key] is not None and not isinstance(row[key], str):
            raise UserError(f"{place}: {key!r} must be a text, but is {_shown(row[key])}.")
        try:
            (row[key] or "").encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: {key!r} has half a surrogate pair, which is no character of UTF-8.") from None


def _shown(value: Any) -> str:
    try:
        return _shortened(json.dumps(value), 40)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
