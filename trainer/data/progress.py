"""How far the preparation of the data is: a bar in a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Sides = TypeVar("Sides", bound=tuple[list[str], list[str]])
_SECONDS_BETWEEN_LINES = 10.0


def show_progress(blocks: Iterable[Sides], label: str) -> Iterator[Sides]:
    """Passes blocks of pairs through and reports on stderr how many pairs have passed."""
    return _bar(blocks, label) if sys.stderr.isatty() else _lines(blocks, label)


def _bar(blocks: Iterable[Sides], label: str) -> Iterator[Sides]:
    columns = (SpinnerColumn(), TextColumn("{task.description}  {task.completed:,.0f} pairs"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)
        for block in blocks:
            yield block
            progress.advance(task, len(block[0]))


def _lines(blocks: Iterable[Sides], label: str) -> Iterator[Sides]:
    num_pairs, last = 0, time.monotonic()
    for block in blocks:
        yield block
        num_pairs += len(block[0])
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{label}  {num_pairs:,} pairs so far", file=sys.stderr, flush=True)
    print(f"{label}  {num_pairs:,} pairs", file=sys.stderr, flush=True)
