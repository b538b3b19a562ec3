"""How processes come to be: command line, local launch, workers.

Importing this package makes sure that `launch`, `trainer` and `model` are ours and not the user's modules of the same
names, in this process and in those that it spawns.
"""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
"""The folder that holds our packages: a clone, `site-packages`, or the copy in a run directory."""
PACKAGES = ("launch", "trainer", "model")


def _put_our_packages_first(safe_path: bool = sys.flags.safe_path) -> None:
    """Moves the entries of `sys.path` that hold another module of our names after our own folder."""
    # While `python -m launch…` looks for its module, argv[0] is "-m" and the first entry is the current folder, in
    # which a user's `yaml.py` or `datasets` would be imported for a library. PYTHONSAFEPATH leaves that entry out.
    if sys.argv[:1] == ["-m"] and not safe_path and not _is_home(sys.path[0]):
        del sys.path[0]
    if not any(map(_is_home, sys.path)):
        sys.path.insert(0, str(HOME))  # a clone, which holds no name of the standard library
    home = [_is_home(entry) for entry in sys.path].index(True)
    shadowing = [entry for entry in sys.path[:home] if _holds_a_module_of_our_names(entry)]
    before = [entry for entry in sys.path[:home] if entry not in shadowing]
    sys.path[:] = [*before, sys.path[home], *shadowing, *sys.path[home + 1 :]]


def _is_home(entry: str) -> bool:
    return os.path.realpath(entry or os.getcwd()) == str(HOME)


def _holds_a_module_of_our_names(entry: str) -> bool:
    """Whether an import would find one of our names there. A folder without `__init__.py` yields to ours anyway."""
    found = [PathFinder.find_spec(name, [entry or os.getcwd()]) for name in PACKAGES]
    return any(spec is not None and spec.origin is not None for spec in found)


_put_our_packages_first()
