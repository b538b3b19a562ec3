"""Making items ahead in a thread."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
_SECONDS_BETWEEN_LOOKS = 0.1


class Prefetcher(Generic[Item]):
    """Takes the items of an endless iterator in a thread, at most `depth` ahead of `next`.

    An exception of the iterator is raised by the `next` that would have returned the item.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[Item | BaseException] = queue.Queue(max(1, depth))
        self._closed = threading.Event()
        # A daemon, so that a process that ends with an error elsewhere does not wait for it.
        self._thread = threading.Thread(target=self._work, name="data-prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)
            raise item
        return item

    def close(self) -> None:
        """Ends the thread and waits for it."""
        self._closed.set()
        with suppress(queue.Empty):
            self._queue.get_nowait()  # so that a thread that waits for a free place continues at once
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Item | BaseException) -> bool:
        """Puts the item into the queue when it has room. Returns False if the prefetcher was closed meanwhile."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Full:
                continue
            return not self._closed.is_set()
        return False
