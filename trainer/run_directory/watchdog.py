"""Notices a rank that makes no progress and ends it, so that a launcher can start the run again.

    RUN/heartbeats/rank-00003.json   {"step", "phase", "idle", "limit", "time", "host", "pid"}, rewritten every few
                                     seconds; "idle": seconds without progress, "limit": how many are allowed
    RUN/heartbeats/rank-00003.stacks the stacks of all threads of a rank that hung

A rank that waits for another one in a collective hangs as well: the stacks of all ranks show which waited for which.
"""

import faulthandler
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from trainer.configuration.sections import HangConfig
from trainer.errors import ExitStatus
from trainer.files import write_atomically
from trainer.run_directory.layout import HEARTBEATS, files_by_rank, heartbeat_path

_SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_HEARTBEATS = 10.0
_NUM_USUAL_STEPS = 50  # whose median is the usual duration
_SECONDS_FOR_A_FILE = 5.0
_LOOKS_FOR_THE_OTHERS = 3


def end_process(message: str) -> None:
    """Prints the message and ends the process, whatever its other threads wait for."""
    try:
        print(message, file=sys.stderr, flush=True)
    finally:
        os._exit(ExitStatus.TRY_AGAIN)


def read_heartbeats(run_directory: Path) -> dict[int, dict[str, Any]]:
    """The last heartbeat of each rank, also of earlier starts. Leaves out what cannot be read."""
    beats = {}
    for rank, path in files_by_rank(run_directory / HEARTBEATS, ".json").items():
        with suppress(OSError, ValueError):
            beat = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(beat, dict) and {"step", "time"} <= beat.keys():
                beats[rank] = beat
    return beats


class Watchdog:
    """Watches one rank from a thread. Calls `give_up`, which ends the process, with a message if the rank hangs.

    Before the second step, and in validation and saving, the limit is `phase_minutes`.
    """

    def __init__(self, run_directory: Path, rank: int, config: HangConfig, give_up: Callable[[str], None]) -> None:
        self._path = heartbeat_path(run_directory, rank)
        self._rank, self._config, self._give_up = rank, config, give_up
        self._step_seconds: deque[float] = deque(maxlen=_NUM_USUAL_STEPS)
        self._step, self._phase = 0, "start"
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> "Watchdog":
        """Starts to watch. Returns itself."""
        self._last = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _without_waiting(self._write_heartbeat)
        self._thread.start()
        return self

    @property
    def step(self) -> int:
        """The last step that this process completed, 0 before the first."""
        return self._step

    def beat(self, step: int) -> None:
        """To be called when a step is complete."""
        now = time.monotonic()
        if self._phase == "training":
            self._step_seconds.append(now - self._last)
        self._step, self._phase, self._last = step, "training", now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Marks work between two steps that may take longer than a step, such as validation."""
        self._phase, self._last = name, time.monotonic()
        try:
            yield
        finally:
            self._phase, self._last = f"after {name}", time.monotonic()

    def close(self) -> None:
        """Stops to watch."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def limit(self) -> float:
        """Seconds without progress after which the rank counts as hung."""
        if self._phase != "training" or not self._step_seconds:
            return 60 * self._config.phase_minutes
        return max(60 * self._config.minutes, self._config.factor * statistics.median(self._step_seconds))

    def _watch(self) -> None:
        look = time.monotonic()
        next_heartbeat = look + SECONDS_BETWEEN_HEARTBEATS
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            # The time in which the process was suspended does not count.
            self._last += max(0.0, now - look - 2 * _SECONDS_BETWEEN_LOOKS)
            look = now
            if now - self._last > self.limit:
                self._end(now - self._last)
                return
            if now >= next_heartbeat:
                next_heartbeat = now + SECONDS_BETWEEN_HEARTBEATS
                _without_waiting(self._write_heartbeat)

    def _write_heartbeat(self) -> None:
        beat = {"step": self._step, "phase": self._phase, "time": time.time()}
        beat |= {"idle": round(time.monotonic() - self._last, 1), "limit": self.limit}
        beat |= {"host": socket.gethostname(), "pid": os.getpid()}
        with suppress(OSError):  # a full disk is no hang
            write_atomically(self._path, json.dumps(beat), durable=False)

    def _write_stacks(self) -> None:
        places: tuple[Callable[[], TextIO], ...] = (
            lambda: self._path.with_suffix(".stacks").open("w"),
            lambda: os.fdopen(os.dup(2), "w"),
        )
        for open_file in places:
            with suppress(OSError), open_file() as file:
                faulthandler.dump_traceback(file)

    def _end(self, seconds: float) -> None:
        _without_waiting(self._write_stacks)
        # The other ranks are about to notice as well, and should write their stacks before a launcher ends them.
        time.sleep(_LOOKS_FOR_THE_OTHERS * _SECONDS_BETWEEN_LOOKS)
        self._give_up(
            f"dragoman: rank {self._rank} on {socket.gethostname()} has made no progress for {seconds:.0f} s in the "
            f"phase {self._phase!r} after step {self._step}; the stacks of its threads are in "
            f"{self._path.with_suffix('.stacks')}. The same command resumes from the newest checkpoint; "
            "`hang.minutes`, `hang.factor` and `hang.phase_minutes` limit how long a rank may make no progress."
        )


def _without_waiting(write: Callable[[], None]) -> None:
    """Runs `write` in a thread and stops waiting for it after a while: a dead file system may never answer."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(_SECONDS_FOR_A_FILE)
