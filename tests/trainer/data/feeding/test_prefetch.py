import itertools
import threading
from collections.abc import Iterator

import pytest

from trainer.data.feeding.prefetch import Prefetcher


def test_items_come_in_order_and_only_so_far_ahead() -> None:
    made = []

    def work() -> Iterator[int]:
        for n in itertools.count():
            made.append(n)
            yield n

    ahead = Prefetcher(work(), depth=3)
    assert [next(ahead) for _ in range(50)] == list(range(50))
    ahead.close()
    assert len(made) <= 50 + 3 + 2, "the queue, the item that waits for a place, and the one that took the last"


def test_an_error_arrives_where_the_item_would_have_come() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise OSError("lost the disk")

    ahead = Prefetcher(work(), depth=4)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="lost the disk"):
            next(ahead)
    ahead.close()


def test_close_ends_the_thread() -> None:
    before = threading.active_count()
    ahead = Prefetcher(itertools.count(), depth=1)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
