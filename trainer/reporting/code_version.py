"""Which code runs: the commit of a clone, or of the copy that `dragoman submit` makes of it."""

import subprocess
from pathlib import Path

HOME = Path(__file__).parents[2]  # the folder that holds the packages
# Next to the packages in such a copy.
COMMIT_FILE, CHANGES_FILE = "commit.txt", "uncommitted.diff"


def git(folder: Path, *words: str, seconds: float | None = None) -> str | None:
    """The output of git in `folder`; None if there is no git, or it fails or takes longer than `seconds`."""
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=seconds
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
