"""Parallel text in text files: two line-aligned files, or one of tab-separated columns."""

from collections.abc import Iterator
from itertools import chain, islice

from trainer.data.config import CorpusConfig
from trainer.data.corpora.compressed_files import find_files
from trainer.data.corpora.lines import line_blocks
from trainer.data.corpora.shards import pair_shards
from trainer.data.printable import printable
from trainer.errors import UserError

_BLOCK_PAIRS = 10_000
_MAX_SHOWN = 100


def read_parallel(corpus: CorpusConfig) -> Iterator[tuple[list[str], list[str]]]:
    """Yields blocks of pairs from `source` and `target`, whose shards belong together as `pair_shards` says."""
    assert corpus.source is not None
    assert corpus.target is not None
    for source, target in pair_shards(corpus.source, corpus.target):
        yield from _read_shard(source, target)


def _read_shard(*paths: str) -> Iterator[tuple[list[str], list[str]]]:
    sides = [chain.from_iterable(line_blocks(path)) for path in paths]
    num_pairs = 0
    while True:
        sources, targets = (list(islice(side, _BLOCK_PAIRS)) for side in sides)
        if len(sources) != len(targets):
            counts = [num_pairs + len(b) + sum(1 for _ in s) for b, s in zip((sources, targets), sides, strict=True)]
            raise UserError(
                f"{paths[0]} has {counts[0]} lines but {paths[1]} has {counts[1]}: "
                "line n of one must be the translation of line n of the other, so make them equally long."
            )
        if not sources:
            return
        num_pairs += len(sources)
        yield sources, targets


def read_tsv(corpus: CorpusConfig) -> Iterator[tuple[list[str], list[str]]]:
    """Yields blocks of pairs from tab-separated text. A tab separates columns; no other character is special.

    Quotation marks are ordinary text, as in the corpora that are published in this form. A CSV reader would take an
    odd one for the beginning of a quoted field and swallow the lines up to the next.
    """
    assert corpus.tsv is not None
    for path in find_files(corpus.tsv):
        yield from _read_tsv_file(path, corpus.columns or (1, 2))


def _read_tsv_file(path: str, columns: tuple[str | int, str | int]) -> Iterator[tuple[list[str], list[str]]]:
    lines_before = 0
    for lines in line_blocks(path):
        header = lines_before == 0 and isinstance(columns[0], str)
        if lines_before == 0:
            source, target = _numbers(columns, lines[0], path)
        rows = [line.split("\t") for line in lines[header:]]
        if rows and min(map(len, rows)) < max(source, target):
            _refuse_short_row(rows, max(source, target), path, lines_before + header + 1)
        yield [row[source - 1] for row in rows], [row[target - 1] for row in rows]
        lines_before += len(lines)


def _numbers(columns: tuple[str | int, str | int], header: str, path: str) -> list[int]:
    """Returns the numbers of the two columns, from 1."""
    names = header.split("\t")
    for name in columns:
        if isinstance(name, str) and name not in names:
            raise UserError(
                f"`columns` of {path} names {name!r}, but its first line has {_shown(names)}: give [source, target] "
                "with two of these, or with the numbers of two columns where the first line is text."
            )
    return [names.index(column) + 1 if isinstance(column, str) else column for column in columns]


def _shown(names: list[str]) -> str:
    """The column names for a message; the first line may hold sentences instead."""
    text = printable(", ".join(names))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _refuse_short_row(rows: list[list[str]], needed: int, path: str, first_line: int) -> None:
    number, row = next((number, row) for number, row in enumerate(rows, first_line) if len(row) < needed)
    raise UserError(
        f"{path}, line {number} ends after column {len(row)}, but column {needed} is needed: separate columns by a tab."
    )
