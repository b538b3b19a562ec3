"""A few rounds of tests/benchmarks/chaos.py: a run that is killed anywhere loses only the work since its last save."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import patience

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_kills_of_a_rank_of_all_and_of_the_launcher_change_no_loss(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--directory", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=patience(280), check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    report = json.loads(ended.stdout.splitlines()[-1])
    assert {found["target"] for found in report["rounds"]} == {"one rank", "all ranks", "launcher"}
    assert report["wanted_in_a_save"] == 2
    assert report["problems"] == []
