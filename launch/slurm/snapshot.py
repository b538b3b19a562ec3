"""A copy of the code in the run directory, so that a job that restarts next week runs what was submitted."""

import shutil
from pathlib import Path

from launch import HOME, PACKAGES
from trainer.files import publish_folder
from trainer.reporting.code_version import CHANGES_FILE, COMMIT_FILE, git

SCRIPT = "dragoman_script.py"


def take_snapshot(folder: Path) -> str:
    """Copies the packages as they are now, uncommitted changes included, in place of an older copy.

    From a clone, writes the commit and the changes next to them. Returns a description of the copy for the user.
    """
    draft = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(HOME / package, draft / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOME / SCRIPT, draft / SCRIPT)
    commit = git(HOME, "rev-parse", "HEAD") if (HOME / ".git").exists() else None
    changes = git(HOME, "diff", "HEAD") if commit else None
    description = f"commit {commit.strip()[:12]}" if commit else "the installed packages"
    if commit:
        (draft / COMMIT_FILE).write_text(commit)
    if changes:
        (draft / CHANGES_FILE).write_text(changes)
        description += " with uncommitted changes"
    shutil.rmtree(folder, ignore_errors=True)
    publish_folder(draft, folder)
    return description
