"""Progress of the preparation: a bar in a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]
_SECONDS_BETWEEN_LINES = 10.0


def show_progress(label: str, total: int | None = None) -> AbstractContextManager[Advance]:
    """A function to call with the number of pairs that were done since the last call; shows progress on stderr.

    `total` is the number of all pairs, if known.
    """
    return _bar(label, total) if sys.stderr.isatty() else _lines(label, total)


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Advance]:
    count = TextColumn("{task.completed:,.0f} pairs  {task.fields[rate]:,.0f} pairs/s")
    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), count, TimeElapsedColumn()]
    if total is not None:
        columns += [BarColumn(), TimeRemainingColumn()]
    start, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, rate=0.0)

        def advance(num_pairs: int) -> None:
            nonlocal done
            done += num_pairs
            progress.update(task, completed=done, rate=_rate(done, start))

        yield advance


@contextmanager
def _lines(label: str, total: int | None) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(num_pairs: int) -> None:
        nonlocal done, last
        done += num_pairs
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            of_total = "" if total is None else f" of {total:,}"
            _print(f"{label}  {done:,}{of_total} pairs so far, {_rate(done, start):,.0f} pairs/s")

    yield advance
    _print(f"{label}  {done:,} pairs in {time.monotonic() - start:,.1f} s, {_rate(done, start):,.0f} pairs/s")


def _rate(num_pairs: int, start: float) -> float:
    return num_pairs / max(time.monotonic() - start, 1e-3)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
