"""From a YAML file and the command line to a `Config`, and back.

Everything is checked here, before any process starts: settings that do not exist, values of the wrong type, paths whose
variables are not set, and the rules of `trainer.configuration.rules`. Each mistake is one `UserError`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from model.config import PRESETS
from trainer.configuration.paths import expand_settings
from trainer.configuration.rules import check_rules
from trainer.configuration.sections import Config
from trainer.configuration.setting_types import refuse_unknown, show, typed
from trainer.configuration.yaml_text import parse, write
from trainer.errors import UserError

T = TypeVar("T")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file `path`, changed by `section.key=value` overrides, the later ones winning.

    A number in an override's key counts the entries of a list: `data.train.0.weight=2`. `~` and environment variables
    in paths are expanded.

    Raises:
        UserError: the file cannot be read, a setting does not exist, or a value is of the wrong type or breaks a rule.
    """
    config = expand_settings(_settings(path, overrides))
    check_rules(config)
    return config


def load_resolved(path: str | Path) -> Config:
    """The configuration that a run or a model directory was made with, as `dump` wrote it.

    Raises UserError as `load` does, but not for variables that are not set: older versions wrote paths unexpanded.
    """
    config = expand_settings(_settings(path), strict=False)
    check_rules(config)
    return config


def dump(config: Config) -> str:
    """The configuration as YAML, every value written out; `load` reads it back to an equal `Config`."""
    return write(json.loads(json.dumps(asdict(config))))


def load_settings(path: str | Path, overrides: Sequence[str], kind: type[T]) -> T:
    """Other settings than a run's, such as those of a cluster, read and checked in the same way.

    Raises UserError, which names the file. What `kind` itself refuses with one is passed on.
    """
    tree = _read(Path(path), overrides)
    try:
        refuse_unknown(tree, kind)
        return typed(tree, kind)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _settings(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    tree = _read(Path(path), overrides)
    refuse_unknown(tree, Config)
    tree = {name: section for name, section in tree.items() if section is not None}  # `engine:` with nothing below it
    _apply_preset(tree)
    return typed(tree, Config)


def _read(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 text, but has an invalid byte at offset {error.start}.") from error
    except OSError as error:
        raise UserError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    tree = parse(text, f"{path}")
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold sections such as `run:` and `data:`, but holds {show(tree)}.")
    for override in overrides:
        _override(tree, override)
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"A change on the command line is written `section.key=value`, but this one is `{override}`.")
    value = parse(text, f"The value of `{key}`")
    *parents, last = key.split(".")
    node: Any = tree
    for position, name in enumerate(parents):
        if isinstance(node, dict) and node.get(name) is None:
            node[name] = {}
        node = node[_index(node, name, ".".join(parents[: position + 1]))]
    node[_index(node, last, key)] = value


def _index(node: Any, name: str, path: str) -> Any:
    """What to put between the brackets of `node[...]`: a key, or the number of a list's entry."""
    if isinstance(node, dict):
        return name
    if not isinstance(node, list):
        raise UserError(f"`{path}` is not a setting: what is above it holds the single value {show(node)}.")
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError(f"`{path}` is not a setting: the list has {len(node)} entries, counted from 0.")
    return int(name)


def _apply_preset(tree: dict[str, Any]) -> None:
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("preset") is None:
        return
    preset = model["preset"]
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"`model.preset` must be one of {', '.join(PRESETS)}, but is {show(preset)}.")
    tree["model"] = PRESETS[preset] | model
