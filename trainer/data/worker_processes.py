"""Worker processes: spawned, ignoring stop signals meant for the parent, and ended when the parent dies."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, parent_process, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from trainer.errors import ProcessDied

# Those that ask a run to stop, as in `trainer.run_directory.stop_reason`: the parent decides.
_IGNORED_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU
)  # fmt: skip


class _Worker(SpawnProcess):
    """A process that ends as soon as its parent has died, even by SIGKILL."""

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
        super().run()

    def terminate(self) -> None:
        """A broken pool terminates its other workers and waits; as they ignore SIGTERM, only SIGKILL ends them."""
        self.kill()


class _Context(SpawnContext):
    Process = _Worker  # type: ignore[assignment]


def worker_pool(num_workers: int, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> ProcessPoolExecutor:
    """A pool whose processes are already starting; each calls `initializer(*initargs)` first.

    They import the parent's `__main__` again, which therefore must import nothing heavy at its top. A worker that is
    killed breaks the pool: futures raise BrokenProcessPool, see `explaining_death`.
    """
    pool = ProcessPoolExecutor(num_workers, mp_context=_Context(), initializer=initializer, initargs=initargs)
    # Children inherit the mask, so these signals are blocked from their first instruction on. The resource tracker, a
    # process that all pools share, comes first, because Python lifts the mask when it starts it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
        for _ in range(num_workers):
            pool.submit(os.getpid)  # a pool starts a worker when it gets work and none is idle
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pool


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """Kills the workers at once; the pool cannot be used any more."""
    for process in list(pool._processes.values()):
        process.kill()


@contextmanager
def explaining_death(work: str) -> Iterator[None]:
    """Raises ProcessDied if a worker dies while the block waits for it. `work` completes "a process that …"."""
    try:
        yield
    except BrokenProcessPool as error:
        raise ProcessDied(
            f"a process that {work} died, perhaps because the machine ran out of memory: free some, or start fewer of "
            "them (`data.workers`, or `--workers` of `dragoman prepare`), and start the same command again: it "
            "continues with what is finished."
        ) from error


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    connection.wait([parent.sentinel])
    os._exit(1)
