"""RUN/restarts.jsonl: one line for each decision about the SLURM jobs of a run. Standard library only.

    {"time", "job", "restart", "decision", "reason", "step", "crash", "trained"}

`decision` is submitted, requeue, next (the next job of a chain resumes the run) or stop. `restart` counts how often
SLURM had started the job before, `step` is that of the newest checkpoint. `crash` is equal for two crashes of the same
kind, and null if there was none. `trained` says whether training had begun in this start; older lines lack it.
"""

import os
import time
from pathlib import Path
from typing import Any

from trainer.files import append_json_line, read_json_lines
from trainer.run_directory.layout import RESTARTS, checkpoint_step, list_checkpoints


def read_decisions(run: Path) -> list[dict[str, Any]]:
    """The decisions in order, as far as they can be read."""
    return read_json_lines(run / RESTARTS)


def record_decision(run: Path, decision: str, reason: str, job: str, **more: Any) -> None:
    """Adds a line. `more` are further keys. Raises OSError."""
    line = {"time": time.time(), "job": job, "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))}
    line |= {"decision": decision, "reason": reason, "step": newest_step(run), "crash": None, "trained": False} | more
    append_json_line(run / RESTARTS, line)


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 without any."""
    checkpoints = list_checkpoints(run)
    return checkpoint_step(checkpoints[-1]) if checkpoints else 0
