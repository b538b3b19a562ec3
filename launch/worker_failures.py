"""Why workers failed, in files: torchrun turns every exit status of theirs into 1. Standard library only.

Two environment variables name folders for these files:

    DRAGOMAN_LAUNCH     set by `dragoman train`, a temporary folder
      worker-4711       the process id of a worker, so that signals reach it
      failure.json      the first failure, so that a user's mistake is printed once and not by every rank
    DRAGOMAN_OUTCOMES   set by the script of a SLURM job, RUN/slurm/outcomes/JOB.RESTART, read by `launch.slurm.requeue`
      rank-00003.json   why this rank failed, and when
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.failure import Failure
from trainer.run_directory.layout import files_by_rank, rank_name

LAUNCH_FOLDER, OUTCOMES_FOLDER = "DRAGOMAN_LAUNCH", "DRAGOMAN_OUTCOMES"
_FIRST_FAILURE = "failure.json"
_WORKER = "worker-"


def write_process_id(launch: Path) -> None:
    """Lets signals reach this process."""
    process_id_path(launch, os.getpid()).touch()


def process_id_path(launch: Path, pid: int) -> Path:
    """The file that says that a worker has this process id."""
    return launch / f"{_WORKER}{pid}"


def read_process_ids(launch: Path) -> list[int]:
    """The process ids of the workers that have started."""
    return [int(path.name.removeprefix(_WORKER)) for path in launch.glob(f"{_WORKER}*")]


def write_first_failure(launch: Path, failure: Failure) -> None:
    """Writes the failure, unless another rank was first. Raises OSError."""
    draft = launch / f"draft-{os.getpid()}"
    draft.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    with suppress(FileExistsError):
        os.link(draft, launch / _FIRST_FAILURE)
    draft.unlink()


def has_failed(launch: Path) -> bool:
    """Whether a worker has written its failure."""
    return (launch / _FIRST_FAILURE).exists()


def read_first_failure(launch: Path) -> Failure:
    """The failure of the worker that failed first. Raises OSError if none has."""
    return Failure(**json.loads((launch / _FIRST_FAILURE).read_text(encoding="utf-8")))


def write_outcome(outcomes: Path, failure: Failure, rank: int) -> None:
    """Writes why this rank failed, if the disk allows it."""
    document = {"time": time.time()} | asdict(failure)
    with suppress(OSError):
        (outcomes / f"{rank_name(rank)}.json").write_text(json.dumps(document), encoding="utf-8")


def read_outcomes(outcomes: Path) -> list[dict[str, Any]]:
    """The failures of a job's workers in order of time, as dictionaries of the fields of `Failure` and `time`."""
    found = []
    for path in files_by_rank(outcomes, ".json").values():
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return sorted(found, key=lambda outcome: outcome["time"])
