"""What SLURM reports about jobs. Asks once for all of them and does not wait long."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from launch.slurm.command_environment import command_environment

_SECONDS_TO_ANSWER = 5.0
_ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
_RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING")
_UNKNOWN = ("", "N/A", "None", "(null)", "Unknown", "INVALID")


@dataclass(frozen=True)
class Job:
    """A job of SLURM; what SLURM does not report is None. `start` is the expected one while the job waits."""

    id: str
    state: str
    reason: str | None = None
    nodes: str | None = None
    time_left: str | None = None
    start: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it will not run again."""
        return self.state.startswith(_ENDED)

    @property
    def is_running(self) -> bool:
        """Whether it has nodes."""
        return self.state.startswith(_RUNNING)


def find_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """The jobs by id, from the queue or else from accounting. Jobs that SLURM has forgotten are left out."""
    wanted = sorted({number for number in ids if number.isdigit()})
    if not wanted:
        return {}
    jobs: dict[str, Job] = {}
    queue = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(wanted)}", "--format=%A|%T|%r|%N|%L|%S"]
    rows = _rows(queue, 6)
    if rows is None:
        return {number: Job(number, "unknown", "SLURM does not answer") for number in wanted}
    for number, state, *more in rows:
        jobs[number] = Job(number, state, *(None if cell in _UNKNOWN else cell for cell in more))
    missing = [number for number in wanted if number not in jobs]
    accounting = ["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={','.join(missing)}"]
    if missing:
        for number, state in _rows([*accounting, "--format=JobIDRaw,State"], 2) or ():
            jobs[number] = Job(number, state)
    return jobs


def _rows(command: list[str], num_columns: int) -> list[list[str]] | None:
    """The cells of each line that has `num_columns`; None if no answer came in time."""
    if shutil.which(command[0]) is None:
        return []
    try:
        answer = subprocess.run(
            command, env=command_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS_TO_ANSWER, check=False,
        )  # fmt: skip
        rows = [line.split("|") for line in answer.stdout.splitlines()]
        return [row for row in rows if len(row) == num_columns]
    except subprocess.TimeoutExpired:
        return None
    except OSError:
        return []
