"""Whole runs in `data.mode: stream`, with sampled segmentations, killed and moved to other numbers of processes."""

import os
import signal
from pathlib import Path

import pytest

from tests.trainer.test_training import Runs, assert_same_losses

pytestmark = pytest.mark.slow

STREAMED = (
    "data.mode=stream", "data.workers=1", "data.temperature=1.5", "tokenizer.sampling=0.1",
    "data.train=[{builtin: phrasebook, limit: 2000}, {builtin: phrasebook, split: valid, name: other, weight: 2.5}]",
)  # fmt: skip


def test_killed_twice_on_other_numbers_of_processes_it_makes_the_same_steps(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    expected = runs.finished("undisturbed", *STREAMED)
    for processes, killed_at in ((4, 7), (2, 12)):
        process = runs.start("killed", *STREAMED, processes=processes)
        runs.wait_for_step("killed", killed_at)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    resumed = runs.finished("killed", *STREAMED, processes=4)
    assert_same_losses(resumed, expected, 1e-5)
    assert [step["data"] for step in resumed] == [step["data"] for step in expected]
    assert set(expected[-1]["data"]) == {"phrasebook-train", "other"}
    pairs = [step["data"]["other"]["pairs"] for step in expected]
    assert pairs == sorted(pairs)
