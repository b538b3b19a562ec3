"""What may change when a run resumes."""

from dataclasses import replace
from pathlib import Path

import pytest

from trainer.configuration.reading import load
from trainer.configuration.same_run import CHANGEABLE, differences, require_same_run
from trainer.configuration.sections import Config
from trainer.configuration.setting_types import known_settings
from trainer.errors import UserError


def changed(config: Config, setting: str) -> Config:
    """The same configuration with another, not necessarily sensible, value of one setting."""
    section, _, name = setting.partition(".")
    part = getattr(config, section)
    if "." in name:
        inner, _, name = name.partition(".")
        return replace(config, **{section: replace(part, **{inner: replace(getattr(part, inner), **{name: "other"})})})
    return replace(config, **{section: replace(part, **{name: "other"})})


FIXED = {
    "run.seed",
    "tokenizer.vocab_size",
    "tokenizer.path",
    "model.d_model",
    "model.norm",
    "data.train",
    "data.num_lanes",
    "data.window",
    "data.max_length",
    "optimizer.betas",
}
FREE = {
    "run.max_steps",
    "data.max_tokens",
    "data.valid",
    "engine.kind",
    "engine.precision",
    "optimizer.peak_lr",
    "checkpoint.keep_last",
    "evaluation.beam_size",
    "tracking.wandb.mode",
}


@pytest.mark.parametrize("setting", sorted(FIXED))
def test_a_run_cannot_go_on_with_another_past(path: Path, setting: str) -> None:
    config = load(path)
    with pytest.raises(UserError, match=f"differs in `{setting}`; give it its old value or"):
        require_same_run(config, changed(config, setting))


@pytest.mark.parametrize("setting", sorted(FREE))
def test_a_run_may_go_on_differently(path: Path, setting: str) -> None:
    config = load(path)
    other = changed(config, setting)
    assert differences(config, other) == [setting]
    require_same_run(config, other)


def test_all_keys_that_differ_are_named(path: Path) -> None:
    old, new = load(path), load(path, ["run.seed=2", "model.d_ff=64", "run.max_steps=7"])
    with pytest.raises(UserError, match=r"differs in `run.seed`, `model.d_ff`; give them their old values"):
        require_same_run(old, new)


def test_the_table_of_changeable_settings_names_existing_ones() -> None:
    for entry in CHANGEABLE:
        names = [
            name for name in known_settings(Config) if name == entry or (entry.endswith(".") and name.startswith(entry))
        ]
        assert names, entry
