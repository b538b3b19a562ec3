"""Writes docs/settings.md from the dataclasses: `python -m trainer.configuration.document > docs/settings.md`."""

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import dedent
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model.config import PRESETS
from trainer.configuration.rules import RANGES
from trainer.configuration.same_run import CHANGEABLE
from trainer.configuration.sections import Config

_INTRODUCTION = """\
# Settings

A configuration is a YAML file with the sections below; most settings have a default. On the command line
`section.key=value` changes a setting, and the value is YAML: `optimizer.peak_lr=3e-4`, `data.train.0.weight=2`.
`dragoman config CONFIG [section.key=value …]` prints every setting with its value. In paths, `~` and environment
variables such as `$SCRATCH` are replaced; one that is not set is refused.

A run is resumed with the settings that it began with. Those marked "may change" can be different then.

This page is made from the source: `python -m trainer.configuration.document > docs/settings.md`.
"""
_CORPUS = "data.train"


def document() -> str:
    """The page as Markdown."""
    sections = [_section(path, kind) for path, kind in _sections("", Config)]
    return "\n".join([_INTRODUCTION, *sections, _presets()])


def _sections(path: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """(dotted path, dataclass) of every section, depth first. A list of corpora is a section too, once."""
    for name, hint in get_type_hints(kind).items():
        inner = f"{path}.{name}" if path else name
        if is_dataclass(hint):
            yield inner, hint
            yield from _sections(inner, hint)
        elif inner == _CORPUS:
            yield f"{inner}.0", get_args(hint)[0]


def _section(path: str, kind: Any) -> str:
    texts, hints = explanations(kind), get_type_hints(kind)
    rows = [
        f"| `{field.name}` | {_default(field)} | {texts.get(field.name, '')} | {_rule(f'{path}.{field.name}', hint)} "
        f"| {_on_resume(f'{path}.{field.name}')} |"
        for field in fields(kind)
        if not is_dataclass(hint := hints[field.name])
    ]
    head = "| setting | default | meaning | must be | on resume |\n|---|---|---|---|---|"
    return "\n".join([f"## {path}", "", _one_line(kind.__doc__), "", head, *rows, ""])


def explanations(kind: Any) -> dict[str, str]:
    """The text below each field of a dataclass, in one line. Python keeps it in the source only."""
    (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(below, ast.Expr):
            assert isinstance(below.value, ast.Constant)
            found[node.target.id] = _one_line(str(below.value.value))
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _default(field: "Field[Any]") -> str:
    if field.default is MISSING:
        return "required"
    text = json.dumps(list(field.default) if isinstance(field.default, tuple) else field.default)
    return f"`{text.strip(chr(34))}`"


def _rule(path: str, hint: Any) -> str:
    if path in RANGES:
        return RANGES[path][1]
    choices = ("true", "false") if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
    return ", ".join(f"`{choice}`" for choice in choices)


def _on_resume(path: str) -> str:
    return "may change" if path.startswith(CHANGEABLE) else "fixed"


def _presets() -> str:
    names = list(dict.fromkeys(name for preset in PRESETS.values() for name in preset))
    rows = [
        f"| `{preset}` | " + " | ".join(str(values.get(name, "")) for name in names) + " |"
        for preset, values in PRESETS.items()
    ]
    head = "| `model.preset` | " + " | ".join(f"`{name}`" for name in names) + " |"
    return "\n".join(["## Presets", "", head, "|---" * (len(names) + 1) + "|", *rows, ""])


if __name__ == "__main__":
    print(document(), end="")
