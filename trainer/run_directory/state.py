"""The state of a run, for launchers, `dragoman status` and people.

    RUN/state.json      what rank 0 reported last: training since when and where, or why training ended
    RUN/failures.jsonl  one object per failure that a rank could record; `lost_peer` is true if it failed only because
                        another rank had

A process that is killed reports nothing: `state.json` then still says `training`, while nobody owns the directory.
"""

import json
import os
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from trainer.errors import error_line, lost_peer
from trainer.files import append_json_line, read_json_lines, write_atomically
from trainer.run_directory.layout import FAILURES, STATE
from trainer.run_directory.stop_reason import RunOutcome, StopReason

State = Literal["training", "finished", "stopped", "failed"]


class RunState:
    """Records the state of the run and the failures of one rank. No method is a collective or raises OSError."""

    def __init__(self, run_directory: Path, rank: int, world_size: int, max_steps: int) -> None:
        self._directory, self._rank, self._first_step = run_directory, rank, 0
        self._facts: dict[str, Any] = {
            "max_steps": max_steps,
            "world_size": world_size,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "started": time.time(),
        }

    def training(self, step: int) -> None:
        """Training begins after `step`, 0 in a new run."""
        self._first_step = step
        self._write("training", None, step)

    def ended(self, step: int, reason: StopReason) -> None:
        """Training has ended and its last checkpoint is published."""
        self._write("stopped" if reason.outcome is RunOutcome.INTERRUPTED else "finished", reason, step)

    def failed(self, step: int, error: BaseException) -> None:
        """Records a failure after `step`, the last complete one. That of rank 0 is also the state of the run."""
        step = max(step, self._first_step)
        record = {"time": time.time(), "step": step, "rank": self._rank, "host": socket.gethostname()}
        record |= {"error": error_line(error), "traceback": "".join(traceback.format_exception(error))}
        record["lost_peer"] = lost_peer(error)
        with suppress(OSError):
            append_json_line(self._directory / FAILURES, record)
        self._write("failed", error_line(error), step)

    def _write(self, state: State, reason: str | None, step: int) -> None:
        if self._rank != 0:
            return
        document = {"state": state, "reason": reason, "step": step, "time": time.time()} | self._facts
        with suppress(OSError):
            write_atomically(self._directory / STATE, json.dumps(document, indent=1))


def read_state(run_directory: Path) -> dict[str, Any] | None:
    """The content of `state.json`; None if it is missing or cannot be read."""
    try:
        document = json.loads((run_directory / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_failures(run_directory: Path) -> list[dict[str, Any]]:
    """The failures in order, as far as they can be read."""
    return read_json_lines(run_directory / FAILURES)
