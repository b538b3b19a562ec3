"""A run directory that an older commit wrote resumes as if nothing had changed.

`tests/fixtures/run_of_an_older_commit.tar.xz` was written by commit 4031d03: four steps, then a kill.
"""

import tarfile
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.runs import train_here
from trainer.reporting.metrics_file import read_metrics

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_of_an_older_commit.tar.xz"
LATER_STEPS = {5: (6.167077116379838, 0.8966073393821716), 6: (6.152342768530151, 0.8908978700637817)}
"""Loss and gradient norm, as that commit computed them when it resumed."""


@pytest.mark.slow
def test_a_run_of_an_older_commit_resumes(tmp_path: Path) -> None:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "run"
    prepared = {path.name for path in (run / "data").iterdir()}
    changes = [f"run.directory={run}", "evaluation.max_sentences=2", "evaluation.beam_size=1"]
    run_on_ranks(train_here, 1, str(run / "config.yaml"), changes)
    steps = {
        r["step"]: (r["loss"], r["grad_norm"]) for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"
    }
    assert sorted(steps) == list(range(1, 7))
    for step, values in LATER_STEPS.items():
        assert steps[step] == pytest.approx(values, rel=1e-6)
    assert prepared <= {path.name for path in (run / "data").iterdir()}
    assert not [path for path in (run / "data").glob("phrasebook-*") if path.name not in prepared]
