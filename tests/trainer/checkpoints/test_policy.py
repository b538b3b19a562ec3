"""When a run saves by the clock."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.training.test_loop import FakeEngine, FakeReporter, make_loop
from trainer.checkpoints import policy as run_saving
from trainer.checkpoints.policy import RunSaving
from trainer.configuration.sections import CheckpointConfig, Config, RunConfig
from trainer.run_directory.layout import checkpoint_name, list_checkpoints


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_saving, "time", clock)
    return clock


def saving_of(tmp_path: Path, engine: Any, minutes: float | None) -> RunSaving:
    config = Config(run=RunConfig(directory=str(tmp_path)), checkpoint=CheckpointConfig(every_minutes=minutes))
    return RunSaving(config, engine, FakeReporter(), saved_step=0)  # type: ignore[arg-type]


def test_a_save_by_the_clock_is_due_on_rank_0_alone(tmp_path: Path, clock: Clock) -> None:
    other = FakeEngine()
    other.rank = 1
    savings = [saving_of(tmp_path, engine, minutes=2) for engine in (FakeEngine(), other)]
    clock.now = 120
    assert [saving.is_old for saving in savings] == [False, False]
    clock.now = 121
    assert [saving.is_old for saving in savings] == [True, False]
    assert not saving_of(tmp_path, FakeEngine(), minutes=None).is_old


def test_a_run_saves_by_the_clock_between_its_saves_by_the_step(tmp_path: Path, clock: Clock) -> None:
    """A minute a step, one save in three: the one after the last step comes in any case."""
    settings = CheckpointConfig(every_steps=1000, every_minutes=2.5, keep_last=10)
    loop = make_loop(tmp_path, FakeEngine(), max_steps=8, checkpoint=settings)
    loop.reporter.step = lambda step: setattr(clock, "now", 60.0 * step)  # type: ignore[method-assign]
    loop.run()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == [checkpoint_name(step) for step in (3, 6, 8)]
