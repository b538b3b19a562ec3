"""The settings of a cluster: a YAML file, chosen by `--profile` or DRAGOMAN_SLURM_PROFILE."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainer.configuration.paths import expand
from trainer.configuration.reading import load_settings
from trainer.errors import UserError

VARIABLE = "DRAGOMAN_SLURM_PROFILE"
PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """A cluster's settings. What is null is left to the cluster's defaults."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """The time limit as SLURM writes it: minutes, hours:minutes:seconds or days-hours."""
    memory: str | None = None
    """The memory of each node, such as 200G; "0" is all of it."""
    processes_per_node: int = 1
    """One per GPU."""
    cpus_per_process: int | None = None
    gpus: Literal["gres", "gpus-per-node", "none"] = "none"
    """How to request GPUs; `none` if there are none, or if the cluster gives whole nodes only."""
    gpu_type: str | None = None
    sbatch_options: tuple[str, ...] = ()
    """Further options of sbatch, such as --exclusive."""
    srun_options: tuple[str, ...] = ()
    """Further options of srun, such as --container-image=… and --container-mounts=… of pyxis."""
    modules: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Lines of shell to run before training. Keep secrets in a file that such a line reads, not in the profile."""
    container: tuple[str, ...] = ()
    """Words put before each command of the training, such as apptainer exec --nv image.sif."""
    python: str | None = None
    """The Python to run; by default the one that runs `dragoman submit`. With `container`, the one in the image."""
    network_interface: str | None = None
    """The network interface for NCCL and gloo, such as ib0, if they choose the wrong one."""
    address: str | None = None
    """The address at which the processes meet; by default the name of the first node."""
    requeue: bool = True
    """Whether the cluster lets a job requeue itself; if not, use `--chain`."""
    max_crashes: int = 10
    """Restart after at most this many consecutive crashes."""
    signal_seconds: int = 300
    """Save and stop this long before the time limit: two saves and a step must fit into it."""


def load_profile(name: str | None, overrides: Sequence[str] = ()) -> Profile:
    """Reads the profile of this name, or the one in this file; without a name, the one that the environment names.

    `overrides` are changes such as `account=translation`. Raises UserError if there is no such profile or if it is not
    valid.
    """
    name = name or os.environ.get(VARIABLE)
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if not name:
        raise UserError(
            f"`dragoman submit` needs --profile, or {VARIABLE}, to know the cluster: one of {', '.join(known)}, or a "
            "YAML file of your own (slurm/README.md)."
        )
    path = PROFILES / f"{name}.yaml"
    if name not in known:
        path = Path(expand(name, "--profile"))
        if not path.is_file():
            raise UserError(f"--profile must be one of {', '.join(known)}, or a YAML file, but is {name!r}.")
    profile = load_settings(path, overrides, Profile)
    _check(profile, path)
    return replace(
        profile,
        python=expand(profile.python, f"{path}: `python`") if profile.python else None,
        # A variable that is not set here may be meant for the container.
        container=tuple(expand(word, f"{path}: `container`", strict=False) for word in profile.container),
    )


def _check(profile: Profile, path: Path) -> None:
    for name, least in (("processes_per_node", 1), ("cpus_per_process", 1), ("max_crashes", 0), ("signal_seconds", 1)):
        value = getattr(profile, name)
        if value is not None and value < least:
            raise UserError(f"{path}: `{name}` must be at least {least}, but is {value}.")
