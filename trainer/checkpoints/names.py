"""What the directories under RUN/checkpoints are called; without torch, for whoever only looks."""

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
_PUBLISHED = re.compile(r"step-(\d{8})")


def name_of(step: int) -> str:
    """The directory name of the checkpoint after `step`."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step after which a published checkpoint was taken."""
    found = _PUBLISHED.fullmatch(checkpoint.name)
    assert found, f"{checkpoint} is no published checkpoint"
    return int(found[1])


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    found = (run_directory / CHECKPOINTS).glob("step-*")
    return sorted(path for path in found if _PUBLISHED.fullmatch(path.name))
