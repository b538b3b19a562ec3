"""A configuration is read as it was meant, written so that it reads back, and refused in one clear sentence."""

from pathlib import Path

import pytest

from model.config import PRESETS
from tests.trainer.configuration.smallest import refusal
from trainer.configuration.reading import dump, load
from trainer.configuration.same_run import differences


def test_defaults_stand_where_the_file_says_nothing(path: Path) -> None:
    config = load(path)
    assert config.run.directory == "runs/x"
    assert config.optimizer.betas == (0.9, 0.98)
    assert config.data.train[0].weight == 1.0


@pytest.mark.parametrize(
    ("override", "section", "value"),
    [
        ("optimizer.peak_lr=7e-4", "optimizer.peak_lr", 7e-4),  # text in YAML 1.1
        ("optimizer.peak_lr=1E-3", "optimizer.peak_lr", 1e-3),
        ("optimizer.peak_lr=1", "optimizer.peak_lr", 1.0),
        ("optimizer.betas=[0.9, .95]", "optimizer.betas", (0.9, 0.95)),
        ("run.max_steps=300_000", "run.max_steps", 300_000),
        ("run.directory=a=b", "run.directory", "a=b"),
        ("run.directory=no", "run.directory", "no"),  # false in YAML 1.1
        ("run.directory='2024'", "run.directory", "2024"),
        ("engine.activation_checkpointing=2", "engine.activation_checkpointing", 2),
        ("data.cache=", "data.cache", None),
        ("tracking.wandb.mode=offline", "tracking.wandb.mode", "offline"),
    ],
)
def test_an_override_is_read_as_yaml(path: Path, override: str, section: str, value: object) -> None:
    found: object = load(path, [override])
    for name in section.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_reach_into_lists(path: Path) -> None:
    config = load(path, ["data.train.0.weight=2", "run.seed=3", "run.seed=4"])
    assert (config.data.train[0].weight, config.run.seed) == (2.0, 4)


def test_a_preset_fills_what_was_not_given(path: Path) -> None:
    model = load(path, ["model.d_ff=77", "model.preset=big"]).model
    assert model.d_ff == 77
    assert model.d_model == PRESETS["big"]["d_model"]
    assert model.dropout == PRESETS["big"]["dropout"]


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [
        ("optimizer.peak_rl=1", "optimizer.peak_rl", "optimizer.peak_lr"),
        ("optimizer.lr=1", "optimizer.lr", "optimizer.peak_lr"),
        ("optimiser.peak_lr=1", "optimiser", "optimizer"),
        ("data.max_steps=1", "data.max_steps", "run.max_steps"),
        ("data.train.0.wieght=1", "data.train.0.wieght", "data.train.0.weight"),
        ("tracking.wandb.moed=online", "tracking.wandb.moed", "tracking.wandb.mode"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(path: Path, override: str, unknown: str, nearest: str) -> None:
    assert refusal(path, override) == f"`{unknown}` is not a setting; did you mean `{nearest}`?"


def test_an_unknown_setting_that_is_near_to_nothing_lists_the_known(path: Path) -> None:
    assert "`tokenizer` has kind, vocab_size" in refusal(path, "tokenizer.qqq=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.max_steps=ten", '`run.max_steps` must be a whole number, but is "ten".'),
        ("run.max_steps=1e5", "`run.max_steps` must be a whole number, but is 100000.0."),
        ("run.max_steps=true", "`run.max_steps` must be a whole number, but is true."),
        ('optimizer.peak_lr="1"', '`optimizer.peak_lr` must be a number, but is "1".'),
        ("engine.kind=zero4", '`engine.kind` must be one of ddp, zero1, zero2, zero3, but is "zero4".'),
        ("optimizer.betas=[0.9]", "`optimizer.betas` must be a list of 2, each a number, but is [0.9]."),
        ("optimizer.betas=[0.9, a]", '`optimizer.betas.1` must be a number, but is "a".'),
        ("data.train=[3]", "`data.train.0` must be a section of settings, but is 3."),
        ("tracking.wandb=1", "`tracking.wandb` must be a section of settings, but is 1."),
    ],
)
def test_a_wrong_type_is_refused(path: Path, override: str, message: str) -> None:
    assert refusal(path, override) == message


def test_what_is_required_is_asked_for(path: Path) -> None:
    path.write_text("data: {train: [{builtin: phrasebook}]}")
    assert refusal(path).startswith("`run` is missing")
    path.write_text("run:\n  seed: 1")
    assert refusal(path).startswith("`run.directory` is missing")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run: {directory: a", "line 1 is not valid YAML"),
        ("run: {directory: a}\nrun: {directory: b}", "line 2 is not valid YAML: `run` is given twice"),
        ("- run", "must hold sections"),
        ("", "must hold sections"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(path: Path, text: str, part: str) -> None:
    path.write_text(text)
    assert part in refusal(path)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    assert "nowhere.yaml cannot be read: No such file" in refusal(path.with_name("nowhere.yaml"))
    assert "cannot be read" in refusal(path.parent)
    path.write_bytes(b"run: {directory: \xff}")
    assert "must be UTF-8" in refusal(path)


@pytest.mark.parametrize(
    "override", ["run.max_steps", "=3", "data.train.1.weight=2", "model.d_model.x=3", "run.seed=[1"]
)
def test_a_malformed_override_is_refused(path: Path, override: str) -> None:
    refusal(path, override)


def test_what_is_written_reads_back_equal(path: Path, tmp_path: Path) -> None:
    overrides = [
        "run.directory='7e-4'",
        "tracking.wandb.name='true'",
        "tracking.wandb.entity='née: #1'",
        "optimizer.eps=1e-9",
        "model.preset=small",
        "engine.activation_checkpointing=2",
        "data.valid=[{hub: a/b, languages: [no, en], name: '010'}]",
    ]
    config = load(path, overrides)
    written = tmp_path / "written.yaml"
    written.write_text(dump(config))
    assert load(written) == config
    assert differences(load(written), config) == []
    assert dump(load(written)) == dump(config)
