"""Spawned processes that form one gloo group and do as they are asked; no ports, no launcher.

    results = run_on_ranks(function, 2, argument)     # function(argument) on ranks 0 and 1; [result 0, result 1]

The function must be importable (module level) and its arguments and result picklable. The group rendezvouses through
a file. To start a group costs some seconds of imports, so a group is kept for the next call with as many ranks, until
one with another number is asked for or a call fails.
"""

import atexit
import ctypes
import faulthandler
import multiprocessing as mp
import multiprocessing.util
import os
import pickle
import queue
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.limits import patience

# Named so that it is imported, and its own clean-up registered, before ours, which then runs first: its clean-up waits
# for processes that ours ends.
assert multiprocessing.util
_PR_SET_PDEATHSIG = 1
_SECONDS = 120.0


class Ranks:
    """A group of `world_size` processes. A call that fails, or hangs, ends it."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._folder = tempfile.TemporaryDirectory()
        context = mp.get_context("spawn")
        self._results: Any = context.Queue()
        self._calls: list[Any] = [context.SimpleQueue() for _ in range(world_size)]
        self._processes = [
            context.Process(
                target=_serve, args=(rank, world_size, self._folder.name, os.getpid(), self._calls[rank], self._results)
            )
            for rank in range(world_size)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Results by rank. Raises AssertionError with the traceback of the first rank that failed, died or hung."""
        call = pickle.dumps((function, args))
        for calls in self._calls:
            calls.put(call)
        found: dict[int, Any] = {}
        deadline = time.monotonic() + patience(_SECONDS)
        while len(found) < self.world_size:
            rank, error, value = self._next_result(found, deadline)
            assert error is None, f"rank {rank} failed:\n{error}"
            found[rank] = pickle.loads(value)
        return [found[rank] for rank in range(self.world_size)]

    def _next_result(self, found: dict[int, Any], deadline: float) -> tuple[int, str | None, bytes]:
        while True:
            try:
                result: tuple[int, str | None, bytes] = self._results.get(timeout=0.2)
                return result
            except queue.Empty:
                dead = [r for r, p in enumerate(self._processes) if p.exitcode is not None and r not in found]
            # The result of a rank that has ended may still be in the pipe.
            if dead and self._results.empty():
                raise AssertionError(f"rank {dead[0]} ended with {self._processes[dead[0]].exitcode}")
            assert time.monotonic() < deadline, f"only ranks {sorted(found)} finished in time"

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._results.close()
        self._folder.cleanup()


_kept: list[Ranks] = []


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any, fresh: bool = False) -> list[Any]:
    """See `Ranks.run`. `fresh`: by processes of its own, for a function that changes more than it puts back."""
    if fresh or not (_kept and _kept[0].world_size == world_size):
        end_ranks()
        _kept.append(Ranks(world_size))
    try:
        return _kept[0].run(function, *args)
    except BaseException:
        fresh = True
        raise
    finally:
        if fresh:
            end_ranks()


@atexit.register
def end_ranks() -> None:
    """Ends the processes that are kept, if there are any: for tests that need the memory or a fresh group."""
    while _kept:
        _kept.pop().end()


def _serve(rank: int, world_size: int, folder: str, parent: int, calls: Any, results: Any) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",
        GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
    )
    import torch

    torch.set_num_threads(1)
    limit = timedelta(seconds=patience(_SECONDS) / 2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=limit
    )
    while True:
        call = calls.get()
        faulthandler.dump_traceback_later(patience(_SECONDS) * 0.9, exit=False)
        try:
            function, args = pickle.loads(call)
            # Pickled here and not by torch, which would share the memory of ranks that may be dead by then.
            results.put((rank, None, pickle.dumps(function(*args))))
        except BaseException:
            results.put((rank, traceback.format_exc(), b""))
        faulthandler.cancel_dump_traceback_later()
