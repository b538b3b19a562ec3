"""The user's own language identifier, by its address: `module:function` or `path/file.py:function`."""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from trainer.errors import Unavailable, UserError, error_line

Identifier = Callable[[list[str]], Sequence[str]]
_SETTING = "`data.filters.language_id`"


def identify(address: str, texts: list[str]) -> list[str]:
    """The language code of each text.

    Raises UserError if the identifier returns too many or too few codes, Unavailable if it raises: it may only have
    run out of memory.
    """
    if not texts:
        return []
    identifier = load_identifier(address)
    try:
        codes = list(identifier(texts))
    except Exception as error:
        raise Unavailable(
            f"{_SETTING} ({address}) failed on {len(texts):,} texts with {error_line(error)}: mend it and start again; "
            "what is already prepared is kept."
        ) from error
    if len(codes) != len(texts):
        raise UserError(
            f"{_SETTING} ({address}) must return one language code for each text, but returned {len(codes):,} for "
            f"{len(texts):,} texts."
        )
    return codes


@functools.cache
def load_identifier(address: str) -> Identifier:
    """Imports the function, once per process. Raises UserError if there is none at the address.

    A failed import raises Unavailable, because a worker may lack memory for what another process could load.
    """
    place, _, name = address.rpartition(":")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise Unavailable(
            f"{_SETTING} is {address!r}, but {place} cannot be imported ({error_line(error)}): give the function as "
            "module:function or path/file.py:function."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{_SETTING} is {address!r}, but {place} has no function {name!r}: correct the name.")
    return function  # type: ignore[no-any-return]


def _load_file(path: Path) -> ModuleType:
    """Imports a file by its path, because PYTHONSAFEPATH keeps the working folder out of the search for modules."""
    # Not its own name, which could be that of an installed module.
    spec = importlib.util.spec_from_file_location("dragoman_language_id", path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    # Classes look up their own module here, dataclasses already while they are defined.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
