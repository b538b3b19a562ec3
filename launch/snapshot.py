"""A copy of the code beside a run, so that a job that starts again next week runs what was submitted."""

import shutil
import subprocess
from pathlib import Path

PACKAGES = ("launch", "trainer", "model")
HOME = Path(__file__).parents[1]
_COMMIT, _CHANGES = "commit.txt", "uncommitted.diff"


def take_snapshot(folder: Path) -> str:
    """Copies the packages as they are now, uncommitted changes included, in place of an older copy.

    The commit and the changes lie beside them where the packages come from a clone. Returns how the copy is told.
    """
    draft = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(HOME / package, draft / package, ignore=shutil.ignore_patterns("__pycache__"))
    commit = _git("rev-parse", "HEAD") if (HOME / ".git").exists() else None
    changes = _git("diff", "HEAD") if commit else None
    told = f"commit {commit.strip()[:12]}" if commit else "the installed packages"
    if commit:
        (draft / _COMMIT).write_text(commit)
    if changes:
        (draft / _CHANGES).write_text(changes)
        told += " with uncommitted changes"
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return told


def _git(*words: str) -> str | None:
    """What git says; None without git, or where it refuses."""
    try:
        return subprocess.run(
            ["git", "-C", str(HOME), *words], capture_output=True, text=True, errors="replace", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
