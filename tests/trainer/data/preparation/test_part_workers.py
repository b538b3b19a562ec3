import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from trainer.data.config import FilterConfig
from trainer.data.corpora.sources import Block
from trainer.data.preparation import part_workers
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.part_workers import PartWorkers, regrouped
from trainer.data.preparation.raw_parts import Part, PartMaker
from trainer.data.stores.store import TEXT_DTYPE
from trainer.data.worker_processes import explaining_death
from trainer.errors import UserError

MAKER = PartMaker(PairFilter(FilterConfig()), None, TEXT_DTYPE)


def blocks(num_pairs: int, size: int = 7) -> Iterator[Block]:
    for start in range(0, num_pairs, size):
        numbers = range(start, min(start + size, num_pairs))
        yield [f"source {n}" for n in numbers], [f"target {n}" for n in numbers]


def ignore(_: int) -> None:
    pass


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_workers, "PART_PAIRS", 10)


@pytest.mark.parametrize("size", [1, 7, 10, 100])
def test_regrouping_keeps_every_pair_in_order(size: int) -> None:
    groups = list(regrouped(blocks(33), size))
    assert [len(sources) for sources, _ in groups] == [size] * (33 // size) + [33 % size] * (33 % size > 0)
    assert [text for sources, _ in groups for text in sources] == [f"source {n}" for n in range(33)]
    assert [text for _, targets in groups for text in targets] == [f"target {n}" for n in range(33)]


def test_little_text_needs_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_workers, "worker_pool", None)
    with PartWorkers(MAKER, 2) as workers:
        (part,) = workers.write_parts(blocks(33), tmp_path, ignore)
    assert len(part.hashes()) == 33


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_finished_parts_are_not_made_again_and_torn_ones_are(tmp_path: Path) -> None:
    with PartWorkers(MAKER, 2) as workers:
        done: list[int] = []
        parts = workers.write_parts(blocks(45), tmp_path, done.append)
        assert sum(done) == 45
        assert [part.path.name for part in parts] == [f"part-00000{n}.npz" for n in range(5)]
        assert [len(part.hashes()) for part in parts] == [10, 10, 10, 10, 5]
        before = [(part.path.stat().st_ino, part.path.read_bytes()) for part in parts]
        parts[1].path.unlink()
        parts[3].path.write_bytes(before[3][1][:-10])
        done.clear()
        workers.write_parts(blocks(45), tmp_path, done.append)
        assert sum(done) == 45
    after = [(part.path.stat().st_ino, part.path.read_bytes()) for part in parts]
    assert [content for _, content in after] == [content for _, content in before]
    assert [after[n][0] for n in (0, 2, 4)] == [before[n][0] for n in (0, 2, 4)], "kept as they were"


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_reading_is_never_far_ahead_of_the_work(tmp_path: Path) -> None:
    read, done = 0, 0
    ahead = []

    def counted() -> Iterator[Block]:
        nonlocal read
        for block in blocks(400, size=10):
            read += 10
            yield block

    def advance(count: int) -> None:
        nonlocal done
        ahead.append(read - done)
        done += count

    with PartWorkers(MAKER, 2) as workers:
        workers.write_parts(counted(), tmp_path, advance)
    assert max(ahead) <= (2 + 2 + 1) * 10, "the parts under way and the one that was read last"


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_after_a_failure_of_reading_nobody_writes_any_more(tmp_path: Path) -> None:
    def failing() -> Iterator[Block]:
        yield from blocks(70)
        raise UserError("line 71")

    with PartWorkers(MAKER, 2) as workers:
        with pytest.raises(UserError, match="line 71"):
            workers.write_parts(failing(), tmp_path, ignore)
        left = sorted(tmp_path.iterdir())
        assert not [path for path in left if path.name.startswith(".tmp")]
        (tmp_path / "other").mkdir()
        workers.write_parts(blocks(100), tmp_path / "other", ignore)
        assert sorted(tmp_path.glob("*.*")) == left


class SleepingMaker(PartMaker):
    """Takes longer than anybody waits."""

    def make(self, sources: Sequence[str], targets: Sequence[str]) -> Part:
        time.sleep(600)
        return super().make(sources, targets)


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_an_interrupt_does_not_wait_for_unfinished_parts(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Block]:
        yield from blocks(30)
        raise KeyboardInterrupt

    maker = SleepingMaker(MAKER.pair_filter, None, TEXT_DTYPE)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), PartWorkers(maker, 2) as workers:
        workers.write_parts(interrupted(), tmp_path, ignore)
    assert time.monotonic() - start < 120


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    def killing(workers: PartWorkers) -> Iterator[Block]:
        yield from blocks(70)
        assert workers._pool is not None
        os.kill(next(iter(workers._pool._processes)), signal.SIGKILL)
        yield from blocks(70)

    with (
        pytest.raises(UserError, match="a process that prepared the data died"),
        explaining_death("prepared the data"),
        PartWorkers(MAKER, 2) as workers,
    ):
        workers.write_parts(killing(workers), tmp_path, ignore)
