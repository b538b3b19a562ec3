"""Learning-rate schedules against their formulas."""

from typing import Any

import pytest

from trainer.configuration.sections import Config, RunConfig
from trainer.engine.config import OptimizerConfig
from trainer.training.schedule import learning_rate, schedule_warnings


def test_inverse_sqrt_is_the_papers_equation_3() -> None:
    """d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), with base's d_model and warm-up."""
    config = OptimizerConfig(peak_lr=512**-0.5 * 4000**-0.5, warmup_steps=4000, schedule="inverse_sqrt")
    for step in (1, 10, 3999, 4000, 4001, 100_000):
        paper = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert learning_rate(config, step, 100_000) == pytest.approx(paper)


@pytest.mark.parametrize(
    ("schedule", "halfway"), [("linear", 0.6), ("cosine", 0.6), ("constant", 1.0), ("inverse_sqrt", (1 / 5.5) ** 0.5)]
)
def test_every_schedule_warms_up_and_passes_its_middle(schedule: str, halfway: float) -> None:
    config = OptimizerConfig(peak_lr=1.0, final_lr=0.2, warmup_steps=100, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(config, 50, 1000) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1000) == pytest.approx(1.0)
    assert learning_rate(config, 550, 1000) == pytest.approx(halfway)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_end_is_the_final_rate_and_stays_there(schedule: str) -> None:
    config = OptimizerConfig(peak_lr=1.0, final_lr=0.2, warmup_steps=0, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(config, 1000, 1000) == pytest.approx(0.2)
    assert learning_rate(config, 2000, 1000) == pytest.approx(0.2)


def test_without_warm_up_the_first_update_has_the_peak() -> None:
    config = OptimizerConfig(peak_lr=1.0, warmup_steps=0, schedule="inverse_sqrt")
    assert learning_rate(config, 1, 1000) == pytest.approx(1.0)


def config_of(max_steps: int, **optimizer: Any) -> Config:
    return Config(run=RunConfig(directory="x", max_steps=max_steps), optimizer=OptimizerConfig(**optimizer))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_prolonged_run_whose_rate_had_fallen_is_warned_of_the_jump(schedule: str) -> None:
    before = config_of(40, schedule=schedule, warmup_steps=4, peak_lr=1e-3)
    rate = learning_rate(before.optimizer, 40, 40)
    assert schedule_warnings(before, 40, rate) == []
    (warning,) = schedule_warnings(config_of(80, schedule=schedule, warmup_steps=4, peak_lr=1e-3), 40, rate)
    assert "jumps from 0 to 0.0005" in warning
    assert warning.count(". ") == 0
    assert "run.max_steps" in warning


def test_what_changes_the_rate_at_resume_is_warned_of_and_nothing_else() -> None:
    optimizer: dict[str, Any] = {"schedule": "inverse_sqrt", "warmup_steps": 10, "peak_lr": 1e-3}
    rates = {update: learning_rate(OptimizerConfig(**optimizer), update, 100) for update in (1, 5, 40)}
    for update, rate in rates.items():  # whether the rate rises or falls here
        assert schedule_warnings(config_of(100, **optimizer), update, rate) == []
        assert schedule_warnings(config_of(200, **optimizer), update, rate) == []
        assert schedule_warnings(config_of(100, **optimizer), update, 0.5 * rate, lr_scale=0.5) == []
        assert len(schedule_warnings(config_of(100, **optimizer | {"peak_lr": 5e-3}), update, rate)) == 1
    assert schedule_warnings(config_of(100, **optimizer), 40, None) == []
    assert schedule_warnings(config_of(100, **optimizer | {"schedule": "linear"}), 90, rates[40]) == []


def test_a_warm_up_that_is_longer_than_the_run_is_warned_of() -> None:
    (warning,) = schedule_warnings(config_of(100, warmup_steps=4000, peak_lr=4e-3), 0, None)
    assert "`optimizer.warmup_steps` is 4000, but `run.max_steps` is 100" in warning
    assert "up to 0.0001 instead of" in warning
    assert schedule_warnings(config_of(4000, warmup_steps=4000), 0, None) == []
