"""Work done ahead in a thread."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
_SECONDS_BETWEEN_LOOKS = 0.1


class Prefetcher(Generic[Item]):
    """Takes an endless iterator's items in a thread, at most `depth` ahead of who asks for them.

    What the iterator raises is raised where the item would have come.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[Item | BaseException] = queue.Queue(max(1, depth))
        self._closed = threading.Event()
        # A daemon, so that a process that dies of an error elsewhere does not wait for it.
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
            self._queue.get_nowait()  # a thread that waits for a free place goes on at once
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Item | BaseException) -> bool:
        """Waits for a free place; False where nobody wants the item any more."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Full:
                continue
            return not self._closed.is_set()
        return False
