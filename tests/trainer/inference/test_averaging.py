"""The average of checkpoints is the arithmetic mean of their weights."""

import pytest
import torch

from tests.trainer.conftest import TinyRun
from trainer.errors import UserError
from trainer.inference.averaging import average
from trainer.inference.model_directory import load


@pytest.mark.parametrize("tokenizers", ["tiny_run", "separate_run"])
def test_the_mean_of_the_last_checkpoints_is_published(tokenizers: str, request: pytest.FixtureRequest) -> None:
    run: TinyRun = request.getfixturevalue(tokenizers)
    models = [run.model(seed) for seed in range(4)]
    for step, model in enumerate(models):
        run.publish(step, model)
    output = run.directory.parent / "averaged"
    average(run.directory, 3, output)
    loaded = load(output, "cpu")
    assert loaded.tokenizers.files() == run.tokenizers.files()
    averaged = dict(loaded.model.named_parameters())
    assert averaged
    for name, parameter in averaged.items():
        mean = torch.stack([model.get_parameter(name).double() for model in models[1:]]).mean(0)
        torch.testing.assert_close(parameter.double(), mean, rtol=1e-6, atol=1e-7)


def test_one_checkpoint_is_its_own_mean(tiny_run: TinyRun) -> None:
    model = tiny_run.model(seed=1)
    tiny_run.publish(5, model)
    average(tiny_run.directory, 1, tiny_run.directory.parent / "one")
    loaded = load(tiny_run.directory.parent / "one", "cpu").model
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in loaded.named_parameters())


def test_the_best_are_those_with_the_highest_scores(tiny_run: TinyRun) -> None:
    models = {step: tiny_run.model(seed=step) for step in (1, 2, 3)}
    for step, score in ((1, 9.0), (2, 3.0), (3, 8.0)):
        tiny_run.publish(step, models[step], score)
    average(tiny_run.directory, 2, tiny_run.directory.parent / "best", best=True)
    loaded = load(tiny_run.directory.parent / "best", "cpu").model
    for name, parameter in loaded.named_parameters():
        mean = (models[1].get_parameter(name) + models[3].get_parameter(name)) / 2
        torch.testing.assert_close(parameter, mean)


def test_mistakes_are_told_and_nothing_is_written(tiny_run: TinyRun) -> None:
    output = tiny_run.directory.parent / "averaged"
    checkpoint = tiny_run.publish(5, tiny_run.model(seed=1))
    with pytest.raises(UserError, match=r"--last is 2, but .* has 1 published"):
        average(tiny_run.directory, 2, output)
    with pytest.raises(UserError, match=r"--best is 1, but .* has 0 published checkpoints that were validated"):
        average(tiny_run.directory, 1, output, best=True)
    next((checkpoint / "state").iterdir()).write_bytes(b"torn")
    with pytest.raises(UserError, match="step-00000005 is damaged"):
        average(tiny_run.directory, 1, output)
    assert not output.exists()
    output.mkdir()
    with pytest.raises(UserError, match="exists already"):
        average(tiny_run.directory, 1, output)
