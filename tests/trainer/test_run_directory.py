"""A run directory belongs to one configuration and, while it trains, to one process."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.run_directory import owning

HOLD = """
import sys, time
from trainer.run_directory import owning
with owning(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_with_the_owner_and_a_dead_owner_is_none(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), owning(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with owning(tmp_path):
        assert "process" in (tmp_path / "owner").read_text()


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with owning(tmp_path):
            pass
