"""Runs a function on several spawned processes that form one gloo group; no ports, no launcher.

    results = run_on_ranks(function, 2, argument)     # function(argument) on ranks 0 and 1; [result 0, result 1]

The function must be importable (module level) and its arguments and result picklable. The group rendezvouses through
a file. One launch costs some seconds of imports: put many checks into it.
"""

import faulthandler
import multiprocessing as mp
import os
import pickle
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 240.0) -> list[Any]:
    """Results by rank. Raises AssertionError with the traceback of the first rank that failed, died or hung."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        results = context.Queue()
        processes = [
            context.Process(target=_run_rank, args=(function, rank, world_size, directory, timeout, results, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            return _collect(processes, results, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(processes: list[BaseProcess], results: Any, deadline: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        try:
            rank, error, value = results.get(timeout=0.2)
        except queue.Empty:
            dead = [r for r, p in enumerate(processes) if p.exitcode is not None and r not in found]
            # A rank's last words may still be in the pipe when it has ended.
            if dead and results.empty():
                raise AssertionError(f"rank {dead[0]} ended with {processes[dead[0]].exitcode}") from None
            assert time.monotonic() < deadline, f"only ranks {sorted(found)} finished in time"
            continue
        assert error is None, f"rank {rank} failed:\n{error}"
        found[rank] = pickle.loads(value)
    return [found[rank] for rank in range(len(processes))]


def _run_rank(
    function: Callable[..., Any], rank: int, world_size: int, directory: str, timeout: float, results: Any, args: Any
) -> None:
    faulthandler.dump_traceback_later(timeout * 0.9, exit=False)
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
    )
    import torch

    torch.set_num_threads(1)
    limit = timedelta(seconds=timeout / 2)
    store = f"file://{directory}/store"
    try:
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=limit)
        results.put((rank, None, pickle.dumps(function(*args))))  # not torch's way: it shares memory of dead ranks
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
    # Leaving without the interpreter's clean-up: a failed rank must not wait for its peers. The queue is drained first.
    results.close()
    results.join_thread()
    os._exit(0)
