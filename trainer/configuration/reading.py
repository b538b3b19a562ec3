"""From a YAML file and the command line to a `Config`, and back. The only file that knows YAML and pydantic.

Everything is checked here, before any process starts: settings that do not exist, values of the wrong type, and the
rules of `trainer.configuration.rules`. Each mistake is one `UserError`.
"""

import difflib
import json
import re
import types
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from model.config import PRESETS
from trainer.configuration.rules import check_rules, settings
from trainer.configuration.sections import Config
from trainer.errors import UserError

T = TypeVar("T")

# The scalars of YAML 1.2. PyYAML follows 1.1, where `7e-4` is text, `no` (also a language) is false and 12:30 is 750.
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "float": (r"[-+]?(?:\d[\d_]*\.\d*|\.\d+|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    "int": (r"[-+]?(?:0|[1-9][\d_]*)", "-+0123456789"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2 scalars and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` is given twice", problem_mark=key.start_mark)
            seen.append(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that looks like a number to it is put in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, (_pattern, _first) in _SCALARS.items():
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))

# What may be different when a run goes on from its checkpoint. All else is part of what was learnt, or of the meaning
# of the stored state, and stays as it was.
CHANGEABLE = (
    "run.directory",  # a run may be moved
    "run.max_steps",  # and go on for longer
    "model.preset",  # only a record; the sizes themselves are compared
    "data.valid",  # read anew at each start
    "data.max_tokens",  # how many pairs make a batch or a step: a lane's position counts pairs
    "data.max_source_tokens",
    "data.micro_batches_per_step",
    "data.cache",  # where and how far ahead text is read, not what
    "data.prefetch",
    "data.workers",
    "optimizer.peak_lr",  # what a step does next; only the betas are built into the moments
    "optimizer.final_lr",
    "optimizer.eps",
    "optimizer.weight_decay",
    "optimizer.clip",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.label_smoothing",
    "engine.",  # fragments load into any engine
    "bad_steps.",  # what a step does next
    "hang.",
    "checkpoint.",  # what is saved, scored and shown
    "evaluation.",
    "tracking.",
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file `path`, changed by `section.key=value` overrides, the later ones winning.

    A number in an override's key counts the entries of a list: `data.train.0.weight=2`.

    Raises:
        UserError: the file cannot be read, a setting does not exist, or a value is of the wrong type or breaks a rule.
    """
    tree = _read(Path(path))
    for override in overrides:
        _override(tree, override)
    return _build(tree)


def dump(config: Config) -> str:
    """The configuration as YAML, every value written out; `load` reads it back to an equal `Config`."""
    tree = json.loads(json.dumps(asdict(config)))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(a: Config, b: Config) -> list[str]:
    """The dotted paths of the settings that differ, in the order of the configuration."""
    others = dict(settings(b))
    return [path for path, value in settings(a) if others[path] != value]


def require_same_run(old: Config, new: Config) -> None:
    """Raises a `UserError` that names the settings in which `new` cannot go on with a run that `old` began."""
    fixed = [path for path in differences(old, new) if not path.startswith(CHANGEABLE)]
    if fixed:
        raise UserError(
            f"{new.run.directory} holds a run made with another configuration, which differs in "
            f"{', '.join(f'`{path}`' for path in fixed)}; give {'it its' if len(fixed) == 1 else 'them their'} old "
            f"value{'' if len(fixed) == 1 else 's'} or choose another `run.directory`."
        )


def load_settings(path: str | Path, overrides: Sequence[str], kind: type[T]) -> T:
    """Other settings than a run's, such as those of a cluster, read and checked like a configuration's.

    Raises UserError, as `load` does; what `kind` itself refuses with one is passed on.
    """
    tree = _read(Path(path))
    for override in overrides:
        _override(tree, override)
    try:
        _refuse_unknown(tree, kind, "", kind)
        return _typed(tree, kind)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 text, but has an invalid byte at offset {error.start}.") from error
    except OSError as error:
        raise UserError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    tree = _parse(text, f"{path}")
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold sections such as `run:` and `data:`, but holds {_show(tree)}.")
    return tree


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line} is not valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"A change on the command line is written `section.key=value`, but this one is `{override}`.")
    value = _parse(text, f"The value of `{key}`")
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
        raise UserError(f"`{path}` is not a setting: what is above it holds the single value {_show(node)}.")
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError(f"`{path}` is not a setting: the list has {len(node)} entries, counted from 0.")
    return int(name)


def _build(tree: dict[str, Any]) -> Config:
    _refuse_unknown(tree, Config, "", Config)
    tree = {name: section for name, section in tree.items() if section is not None}  # `engine:` with nothing below it
    _apply_preset(tree)
    config = _typed(tree, Config)
    check_rules(config)
    return config


def _typed(tree: dict[str, Any], kind: type[T]) -> T:
    try:
        # As JSON, because only there pydantic's strict mode takes lists for tuples, but still no "3" for 3.
        return TypeAdapter(kind).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise _type_error(error, kind) from error


def _apply_preset(tree: dict[str, Any]) -> None:
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("preset") is None:
        return
    preset = model["preset"]
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"`model.preset` must be one of {', '.join(PRESETS)}, but is {_show(preset)}.")
    tree["model"] = PRESETS[preset] | model


def _refuse_unknown(value: Any, kind: Any, path: str, root: Any) -> None:
    """Walks the tree beside the dataclasses; what is not a mapping or a list where one is expected is pydantic's."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for key, entry in value.items():
            full = f"{path}.{key}" if path else f"{key}"
            if key not in hints:
                raise UserError(f"`{full}` is not a setting; {_nearest(path, str(key), list(hints), root)}")
            _refuse_unknown(entry, hints[key], full, root)
    elif get_origin(kind) is tuple and isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_unknown(entry, get_args(kind)[0], f"{path}.{index}", root)


def _nearest(section: str, key: str, siblings: list[str], root: Any) -> str:
    elsewhere = [path for path in _known(root, "") if path.rpartition(".")[2] == key]
    close = difflib.get_close_matches(key, siblings, n=1) or [name for name in siblings if key in name.split("_")]
    prefix = f"{section}." if section else ""
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    if close:
        return f"did you mean `{prefix}{close[0]}`?"
    return f"{f'`{section}` has' if section else 'the sections are'} {', '.join(siblings)}."


def known_settings() -> list[str]:
    """Every setting by its dotted path, corpora as one."""
    return list(_known(Config, ""))


def _known(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _known(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _type_error(error: ValidationError, root: Any) -> UserError:
    details = error.errors(include_url=False)[0]
    location = details["loc"]
    entry_missing = details["type"] == "missing" and isinstance(location[-1], int)  # a list that is too short
    path, kind = _locate(location[:-1] if entry_missing else location, root)
    if details["type"] == "missing" and not entry_missing:
        return UserError(f"`{path}` is missing: give it {_expected(kind)}.")
    return UserError(f"`{path}` must be {_expected(kind)}, but is {_show(details['input'])}.")


def _locate(location: tuple[int | str, ...], root: Any) -> tuple[str, Any]:
    """The dotted path and the declared type; what pydantic adds below it (the branch of a union) is left out."""
    kind: Any = root
    path: list[str] = []
    for part in location:
        if is_dataclass(kind) and isinstance(part, str):
            kind = get_type_hints(kind)[part]
        elif get_origin(kind) is tuple and isinstance(part, int) and part < len(get_args(kind)):
            kind = get_args(kind)[part if get_args(kind)[-1] is not Ellipsis else 0]
        elif get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
            kind = get_args(kind)[0]
        else:
            break
        path.append(str(part))
    return ".".join(path), kind


def _expected(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if kind in names:
        return names[kind]
    if kind is str:
        return "text (in quotes where it looks like a number)"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_expected(branch) for branch in get_args(kind))
    if get_origin(kind) is tuple:
        entries = [entry for entry in get_args(kind) if entry is not Ellipsis]
        return f"a list of {len(entries)}, each {_expected(entries[0])}" if len(entries) > 1 else "a list"
    required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    return f"a section of settings{f' with `{required[0]}`' if required else ''}"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"
