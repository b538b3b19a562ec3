"""The output of a run's SLURM jobs, RUN/slurm/job-JOB.log. Standard library only."""

import os
from pathlib import Path

from trainer.run_directory.layout import JOBS

_BYTES_READ = 8192


def job_log_path(run: Path, job: str) -> Path:
    """The output of a job."""
    return run / JOBS / f"job-{job}.log"


def last_log_lines(run: Path, job: str, number: int, since: int = 0) -> list[str]:
    """The last lines of a job's log that are not empty, from byte `since` on; fewer if there are not as many."""
    try:
        with job_log_path(run, job).open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - _BYTES_READ))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip()][-number:]
