"""One corpus, read by this process and made into parts by others."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path

from trainer.data.corpora.sources import Block
from trainer.data.preparation.progress import Advance
from trainer.data.preparation.raw_parts import PartFile, PartMaker
from trainer.data.worker_processes import kill_workers, worker_pool

PART_PAIRS = 20_000
"""Raw pairs of a part: half a second of work, some megabytes of text."""


class PartWorkers:
    """Processes that write parts. They are started when the first whole part comes: less is not worth their start."""

    def __init__(self, maker: PartMaker, num_workers: int) -> None:
        self._maker, self._num_workers = maker, num_workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "PartWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def write_parts(self, blocks: Iterable[Block], folder: Path, advance: Advance) -> list[PartFile]:
        """Writes a corpus's parts into `folder`, except those that are there already; all of them, in raw order.

        Which parts there are depends on the corpus alone. Memory holds some parts for each worker, never the corpus.
        """
        parts: list[PartFile] = []
        under_way: deque[tuple[Future[None], int]] = deque()
        try:
            for block in regrouped(blocks, PART_PAIRS):
                parts.append(PartFile(folder / f"part-{len(parts):06}.npz"))
                if parts[-1].is_sound():
                    advance(len(block[0]))
                    continue
                while len(under_way) >= self._num_workers + 2:
                    _finish_first(under_way, advance)
                under_way.append((self._submit(parts[-1], block), len(block[0])))
            while under_way:
                _finish_first(under_way, advance)
        except KeyboardInterrupt:
            # Whoever presses Ctrl-C should not wait for some seconds of work that the next start makes good.
            if self._pool is not None:
                kill_workers(self._pool)
            under_way.clear()  # nobody is left to wait for
            raise
        finally:
            _abandon(under_way)
        return parts

    def _submit(self, part: PartFile, block: Block) -> "Future[None]":
        if len(block[0]) == PART_PAIRS:
            if self._pool is None:
                self._pool = worker_pool(self._num_workers, _start, (self._maker,))
            return self._pool.submit(_write, part, block)
        # The last one: this process would only wait for the others.
        part.write(self._maker.make(*block), self._maker.dtype)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _finish_first(under_way: "deque[tuple[Future[None], int]]", advance: Advance) -> None:
    future, num_pairs = under_way.popleft()
    future.result()
    advance(num_pairs)


def _abandon(under_way: "deque[tuple[Future[None], int]]") -> None:
    """After this nobody writes into the folder any more.

    Nothing is cancelled: a pool that loses a worker meanwhile would fail over that and never end the others.
    """
    wait([future for future, _ in under_way])


def keep_parts_of(revision: str | None, folder: Path) -> None:
    """Removes the parts of another revision of the corpus, and notes this one for the next process; None has none."""
    note = folder / "revision"
    if revision is None or (note.exists() and note.read_text() == revision):
        return
    for part in folder.glob("part-*"):
        part.unlink()
    note.write_text(revision)


def regrouped(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """The same pairs in blocks of exactly `size`, but for the last."""
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
"""Of a worker process, so that the tokenizers travel to it once."""
