"""What a start ran on and with, enough to find out later where a number came from. No secrets, no environment."""

import importlib.metadata
import os
import platform
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trainer.reporting.code_version import CHANGES_FILE, COMMIT_FILE, HOME, git

_PACKAGES = ("dragoman", "torch", "accelerate", "deepspeed", "sentencepiece", "sacrebleu", "wandb")
_SLURM = {
    "job": "SLURM_JOB_ID",
    "name": "SLURM_JOB_NAME",
    "partition": "SLURM_JOB_PARTITION",
    "nodes": "SLURM_JOB_NODELIST",
    "restart": "SLURM_RESTART_COUNT",
}
_SECONDS_FOR_GIT = 5


def start_facts(device: torch.device, world_size: int, num_parameters: int) -> dict[str, Any]:
    """Of this start, as JSON. What cannot be found out is left out."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "world_size": world_size,
        "num_parameters": num_parameters,
        "launcher": _launcher(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm": {word: os.environ[name] for word, name in _SLURM.items() if name in os.environ},
        "code": _code(),
        "versions": _versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    with suppress(OSError):
        found = re.search(r"Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        facts |= {"driver": found[1]} if found else {}
    return {key: value for key, value in facts.items() if value not in (None, {})}


def _launcher() -> str:
    """By what each launcher, and none before it in this list, leaves in the environment. `dragoman train` needs none
    for a single process."""
    signs = {
        "DRAGOMAN_OUTCOMES": "dragoman submit",
        "DRAGOMAN_LAUNCH": "dragoman train",
        "ACCELERATE_MIXED_PRECISION": "accelerate launch",
        "TORCHELASTIC_RUN_ID": "torchrun",
        "CROSS_SIZE": "deepspeed",
    }
    return next((launcher for name, launcher in signs.items() if name in os.environ), "dragoman train")


def _code() -> dict[str, Any]:
    """The commit of the packages, and whether they differ from it."""
    if (HOME / COMMIT_FILE).exists():
        return {"commit": (HOME / COMMIT_FILE).read_text().strip(), "changed": (HOME / CHANGES_FILE).exists()}
    if (HOME / ".git").exists():
        commit = git(HOME, "rev-parse", "HEAD", seconds=_SECONDS_FOR_GIT)
        changes = git(HOME, "diff", "HEAD", "--stat", seconds=_SECONDS_FOR_GIT)
        if commit is not None and changes is not None:
            return {"commit": commit.strip(), "changed": bool(changes)}
    return {}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})
