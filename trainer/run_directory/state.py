"""How a run stands, for whoever looks from outside: launchers, `dragoman status`, a human.

    RUN/state.json      what rank 0 said last: training since when and where, or why training ended
    RUN/failures.jsonl  one object for each failure that a rank lived to tell, appended by that rank; `lost_peer` where
                        it failed only because another one had

A process that is killed says nothing more: `state.json` then goes on saying `training` while nobody owns the directory.
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
from trainer.files import read_json_lines, write_atomically
from trainer.run_directory.layout import FAILURES, STATE
from trainer.run_directory.stop_reason import RunOutcome, StopReason

State = Literal["training", "finished", "stopped", "failed"]


class RunState:
    """One rank's word on the run. Nothing here is a collective, and nothing fails where the disk does."""

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
        """Training begins, or goes on from `step`."""
        self._first_step = step
        self._write("training", None, step)

    def ended(self, step: int, reason: StopReason) -> None:
        """Training has ended and its last checkpoint is published."""
        self._write("stopped" if reason.outcome is RunOutcome.INTERRUPTED else "finished", reason, step)

    def failed(self, step: int, error: BaseException) -> None:
        """Every rank tells its own failure; rank 0's is also the state of the run. `step`: the last that was done."""
        step = max(step, self._first_step)
        record = {"time": time.time(), "step": step, "rank": self._rank, "host": socket.gethostname()}
        record |= {"error": error_line(error), "traceback": "".join(traceback.format_exception(error))}
        record["lost_peer"] = lost_peer(error)
        with suppress(OSError), (self._directory / FAILURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._write("failed", error_line(error), step)

    def _write(self, state: State, reason: str | None, step: int) -> None:
        if self._rank != 0:
            return
        document = {"state": state, "reason": reason, "step": step, "time": time.time()} | self._facts
        with suppress(OSError):
            write_atomically(self._directory / STATE, json.dumps(document, indent=1))


def read_state(run_directory: Path) -> dict[str, Any] | None:
    """What `state.json` says; None where there is none or it cannot be read."""
    try:
        document = json.loads((run_directory / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_failures(run_directory: Path) -> list[dict[str, Any]]:
    """The failures in order, as far as they can be read."""
    return read_json_lines(run_directory / FAILURES)
