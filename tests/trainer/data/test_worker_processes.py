import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.limits import patience
from trainer.data.worker_processes import explaining_death, worker_pool
from trainer.errors import UserError

ROOT = Path(__file__).parents[3]
SECONDS = 10.0
PARENT = """
import os, sys, time
from trainer.data.worker_processes import worker_pool

if __name__ == "__main__":
    pool = worker_pool(2, print, ())
    futures = [pool.submit(time.sleep, 60) for _ in range(2)]
    time.sleep(0.5)
    print(*pool._processes, flush=True)
    time.sleep(60)
"""


def has_ended(pid: int) -> bool:
    """A zombie, which waits only for its parent to ask after it, has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_the_end(pids: list[int]) -> None:
    limit = time.monotonic() + SECONDS
    while not all(has_ended(pid) for pid in pids):
        assert time.monotonic() < limit, "workers outlive their parent"
        time.sleep(0.02)


def modules_of_workers() -> list[str]:
    for name in ("feeding.streamed_pairs", "preparation.raw_parts", "preparation.filters"):
        importlib.import_module(f"trainer.data.{name}")
    return list(sys.modules)


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with worker_pool(2, os.getpid, ()) as pool:
        yield pool


@pytest.mark.slow
def test_workers_are_deaf_to_the_signals_of_their_parent(pool: ProcessPoolExecutor) -> None:
    """Also while they are starting, which they still are at the first of these."""
    pids = list(pool._processes)
    assert len(pids) == 2
    for _ in range(2):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            for pid in pids:
                os.kill(pid, number)
        assert pool.submit(sum, [1, 2]).result(timeout=SECONDS) == 3
    assert list(pool._processes) == pids


@pytest.mark.slow
def test_signals_that_come_while_workers_start_reach_the_parent() -> None:
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with worker_pool(1, os.kill, (os.getpid(), signal.SIGUSR1)) as pool:
            pool.submit(sum, [1]).result(timeout=SECONDS)
        assert heard == [signal.SIGUSR1]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pids: list[int] = []
        while len(pids) != 2:  # the initializer prints empty lines into the same pipe
            pids = [int(word) for word in parent.stdout.readline().split()]
        assert not any(has_ended(pid) for pid in pids)
        parent.kill()
        wait_for_the_end(pids)


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_no_hang(pool: ProcessPoolExecutor) -> None:
    pids = list(pool._processes)
    waiting = [pool.submit(time.sleep, 60) for _ in range(4)]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(UserError, match="a process that sleeps died"), explaining_death("sleeps"):
        waiting[-1].result(timeout=SECONDS)
    pool.shutdown()
    wait_for_the_end(pids)


@pytest.mark.slow
def test_workers_do_not_import_torch(pool: ProcessPoolExecutor) -> None:
    """Seconds and 200 MB each."""
    modules = pool.submit(modules_of_workers).result(timeout=patience(60))
    assert "trainer.data.text.encoding" in modules
    assert "torch" not in modules
