"""Prints the log of a rank."""

import sys
import time
from pathlib import Path

from trainer.errors import UserError
from trainer.run_directory.layout import LOGS, files_by_rank, log_path
from trainer.run_directory.rank_log import last_lines

_SECONDS_BETWEEN_LOOKS = 0.5


def show_log(run_directory: Path, rank: int, number: int, follow: bool) -> None:
    """Prints the last `number` lines of a rank's log; with `follow` also what is added, until Ctrl-C.

    Raises UserError if there is no such log.
    """
    path = log_path(run_directory, rank)
    if not path.exists():
        raise UserError(_missing(run_directory, rank))
    with path.open("rb") as file:
        file.seek(0, 2)
        for line in last_lines(run_directory, rank, number):
            print(line)
        sys.stdout.flush()
        while follow:
            added = file.read()
            sys.stdout.buffer.write(added)
            sys.stdout.flush()
            if not added:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


def _missing(run_directory: Path, rank: int) -> str:
    ranks = list(files_by_rank(run_directory / LOGS, ".log"))
    if not ranks:
        return f"there are no logs in {run_directory}: name a run directory in which a training has been started."
    return f"rank {rank} has no log in {run_directory}, which has those of {len(ranks)} ranks, up to rank {ranks[-1]}."
