"""Expands `~` and environment variables in the settings that name files or folders. Addresses stay as they are."""

import os
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from trainer.configuration.sections import RunConfig
from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.errors import UserError

T = TypeVar("T")

_PATHS: dict[type, tuple[str, ...]] = {
    RunConfig: ("directory",),
    TokenizerConfig: ("path", "target_path"),
    CorpusConfig: ("source", "target", "tsv", "jsonl", "parquet"),
    FilterConfig: ("language_id",),
    DataConfig: ("cache",),
}
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expand_settings(section: T, *, strict: bool = True, prefix: str = "") -> T:
    """The same section with its paths expanded, those of its corpora included.

    Raises UserError for a variable that is not set; without `strict`, such a path stays as it is written.
    """
    changes: dict[str, Any] = {}
    for field in fields(section):  # type: ignore[arg-type]
        value, name = getattr(section, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            changes[field.name] = expand_settings(value, strict=strict, prefix=f"{name}.")
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            changes[field.name] = tuple(
                expand_settings(entry, strict=strict, prefix=f"{name}.{index}.") for index, entry in enumerate(value)
            )
        elif isinstance(value, str) and field.name in _PATHS.get(type(section), ()):
            changes[field.name] = expand(value, f"`{name}`", strict=strict)
    return replace(section, **changes)  # type: ignore[type-var]


def expand(path: str, setting: str, *, strict: bool = True) -> str:
    """`path` with `~`, `~user`, `$NAME` and `${NAME}` replaced, unless it is an address such as s3://bucket/file.

    A variable that is not set raises a UserError that names `setting`, unless a file of that very name exists or
    `strict` is false: then the path stays as it is.
    """
    if "://" in path:
        return path
    missing = [name for name in map("".join, _VARIABLE.findall(path)) if name not in os.environ]
    expanded = os.path.expanduser(_VARIABLE.sub(lambda found: os.environ.get(found[1] or found[2], found[0]), path))
    if not missing and not expanded.startswith("~"):
        return expanded
    if not strict or os.path.exists(path):
        return path
    if missing:
        raise UserError(
            f"{setting} is {path}, but the environment variable {missing[0]} is not set: set it, or write the path out."
        )
    raise UserError(f"{setting} is {path}, but there is no user of that name: write the path out.")
