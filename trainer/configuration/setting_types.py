"""From a tree of settings to dataclasses: unknown settings and wrong types. The only file that knows pydantic."""

import difflib
import json
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trainer.errors import UserError

T = TypeVar("T")


def typed(tree: dict[str, Any], kind: type[T]) -> T:
    """The tree as a `kind`, a dataclass. Raises UserError for the first value of a wrong type."""
    try:
        # As JSON, because only there pydantic's strict mode takes lists for tuples, but still no "3" for 3.
        return TypeAdapter(kind).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise _type_error(error, kind) from error


def refuse_unknown(tree: dict[str, Any], kind: type) -> None:
    """Raises UserError, which names the nearest setting, for the first key that the dataclass `kind` does not have."""
    _refuse_unknown(tree, kind, "", kind)


def _refuse_unknown(value: Any, kind: Any, path: str, root: Any) -> None:
    """Follows tree and dataclasses in step. A value that is no mapping or list where one is expected is `typed`'s."""
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
    elsewhere = [path for path in known_settings(root) if path.rpartition(".")[2] == key]
    close = difflib.get_close_matches(key, siblings, n=1) or [name for name in siblings if key in name.split("_")]
    prefix = f"{section}." if section else ""
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    if close:
        return f"did you mean `{prefix}{close[0]}`?"
    return f"{f'`{section}` has' if section else 'the sections are'} {', '.join(siblings)}."


def known_settings(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every setting of a dataclass by its dotted path, a list of corpora as one."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from known_settings(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _type_error(error: ValidationError, root: Any) -> UserError:
    details = error.errors(include_url=False)[0]
    location = details["loc"]
    entry_missing = details["type"] == "missing" and isinstance(location[-1], int)  # a list that is too short
    path, kind = _locate(location[:-1] if entry_missing else location, root)
    if details["type"] == "missing" and not entry_missing:
        return UserError(f"`{path}` is missing: give it {expected(kind)}.")
    return UserError(f"`{path}` must be {expected(kind)}, but is {show(details['input'])}.")


def _locate(location: tuple[int | str, ...], root: Any) -> tuple[str, Any]:
    """The dotted path and the declared type; what pydantic adds below it (the branch of a union) is left out."""
    kind: Any = root
    path: list[str] = []
    for step in location:
        if is_dataclass(kind) and isinstance(step, str):
            kind = get_type_hints(kind)[step]
        elif get_origin(kind) is tuple and isinstance(step, int) and step < len(get_args(kind)):
            kind = get_args(kind)[step if get_args(kind)[-1] is not Ellipsis else 0]
        elif get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
            kind = get_args(kind)[0]
        else:
            break
        path.append(str(step))
    return ".".join(path), kind


def expected(kind: Any) -> str:
    """A type in words, such as "a whole number or null"."""
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if kind in names:
        return names[kind]
    if kind is str:
        return "text (in quotes where it looks like a number)"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(expected(branch) for branch in get_args(kind))
    if get_origin(kind) is tuple:
        entries = [entry for entry in get_args(kind) if entry is not Ellipsis]
        return f"a list of {len(entries)}, each {expected(entries[0])}" if len(entries) > 1 else "a list"
    required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    return f"a section of settings{f' with `{required[0]}`' if required else ''}"


def show(value: Any) -> str:
    """A value as JSON, cut to 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"
