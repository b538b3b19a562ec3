"""Learning-rate schedules against their formulas."""

import pytest

from trainer.engine.config import OptimizerConfig
from trainer.training.schedule import learning_rate


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
