"""Prints the path of one of the files: `--config_file $(python -m launch.accelerate zero2)`."""

import sys
from pathlib import Path

KINDS = sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def main() -> int:
    """Prints the path of the file for the kind of engine in the first argument. Returns the exit status."""
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        print(f"dragoman: `python -m launch.accelerate KIND` takes one of {', '.join(KINDS)}.", file=sys.stderr)
        return 2
    print(Path(__file__).parent / f"{sys.argv[1]}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
