"""Reads a corpus in this process and makes its parts in worker processes."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path

from trainer.data.corpora.sources import Block
from trainer.data.preparation.progress import Advance
from trainer.data.preparation.raw_parts import PartFile, PartMaker
from trainer.data.worker_processes import kill_workers, worker_pool

PART_PAIRS = 20_000
"""Raw pairs per part: half a second of work, some megabytes of text."""


class PartWorkers:
    """Processes that write parts. They start with the first full part: less is not worth their start."""

    def __init__(self, maker: PartMaker, num_workers: int) -> None:
        self._maker, self._num_workers = maker, num_workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "PartWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def write_parts(self, blocks: Iterable[Block], folder: Path, advance: Advance) -> list[PartFile]:
        """Writes the parts of a corpus into `folder`, except those that exist. Returns all of them, in order.

        The division into parts depends on the corpus alone. Memory holds some parts per worker, never the corpus.
        """
        parts: list[PartFile] = []
        pending: deque[tuple[Future[None], int]] = deque()
        try:
            for block in regrouped(blocks, PART_PAIRS):
                parts.append(PartFile(folder / f"part-{len(parts):06}.npz"))
                if parts[-1].is_sound():
                    advance(len(block[0]))
                    continue
                while len(pending) >= self._num_workers + 2:
                    _finish_first(pending, advance)
                pending.append((self._submit(parts[-1], block), len(block[0])))
            while pending:
                _finish_first(pending, advance)
        except KeyboardInterrupt:
            # A user who presses Ctrl-C should not wait for seconds of work that the next start can repeat.
            if self._pool is not None:
                kill_workers(self._pool)
            pending.clear()  # the workers are gone
            raise
        finally:
            _abandon(pending)
        return parts

    def _submit(self, part: PartFile, block: Block) -> "Future[None]":
        if len(block[0]) == PART_PAIRS:
            if self._pool is None:
                self._pool = worker_pool(self._num_workers, _start, (self._maker,))
            return self._pool.submit(_write, part, block)
        # The last part: this process would only wait for the others.
        part.write(self._maker.make(*block), self._maker.dtype)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _finish_first(pending: "deque[tuple[Future[None], int]]", advance: Advance) -> None:
    future, num_pairs = pending.popleft()
    future.result()
    advance(num_pairs)


def _abandon(pending: "deque[tuple[Future[None], int]]") -> None:
    """Waits until no worker writes into the folder any more.

    Cancels nothing: a pool that lost a worker meanwhile would fail on the cancelled work and never end the others.
    """
    wait([future for future, _ in pending])


def keep_parts_of(revision: str | None, folder: Path) -> None:
    """Removes the parts of another revision of the corpus and records this one. None: the corpus has no revisions."""
    note = folder / "revision"
    if revision is None or (note.exists() and note.read_text() == revision):
        return
    for part in folder.glob("part-*"):
        part.unlink()
    note.write_text(revision)


def regrouped(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The same pairs in blocks of exactly `size`; the last may be smaller."""
    sources: list[str] = []
    targets: list[str] = []
    for more_sources, more_targets in blocks:
        sources += more_sources
        targets += more_targets
        while len(sources) >= size:
            yield sources[:size], targets[:size]
            sources, targets = sources[size:], targets[size:]
    if sources:
        yield sources, targets


def _start(maker: PartMaker) -> None:
    global _maker
    _maker = maker


def _write(part: PartFile, block: Block) -> None:
    part.write(_maker.make(*block), _maker.dtype)


_maker: PartMaker
"""Set in worker processes, so that the tokenizers are sent to each only once."""
