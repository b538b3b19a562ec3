"""The `dragoman` command, and `python -m dragoman_script`: found even where the user has a `launch.py` of their own.

`launch`, `trainer` and `model` are common names. This module has an uncommon one, so that Python finds it whatever
PYTHONPATH and the current folder hold. It loads the package `launch` next to it, which keeps the other names for us.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def _load_launch() -> None:
    """Imports the package `launch` from the folder of this file, wherever `sys.path` would find one."""
    path = Path(__file__).resolve().parent / "launch" / "__init__.py"
    spec = spec_from_file_location("launch", path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["launch"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if "launch" not in sys.modules:
    _load_launch()


def main() -> int:
    """Runs the command line of `sys.argv`. Returns the exit status."""
    from launch.cli import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
