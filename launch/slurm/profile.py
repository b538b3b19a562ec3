"""What differs between clusters: a YAML file of settings, chosen by `--profile` or DRAGOMAN_SLURM_PROFILE."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.configuration.reading import load_settings
from trainer.errors import UserError

VARIABLE = "DRAGOMAN_SLURM_PROFILE"
PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """A cluster's settings. What is null is left to the cluster."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """As SLURM writes it: minutes, hours:minutes:seconds or days-hours."""
    memory: str | None = None
    """Of each node, such as 200G; "0" is all of it."""
    processes_per_node: int = 1
    """One for each GPU."""
    cpus_per_process: int | None = None
    gpus: Literal["gres", "gpus-per-node", "none"] = "none"
    """How the cluster wants to be asked for GPUs; `none` also where a node is only given as a whole."""
    gpu_type: str | None = None
    sbatch_options: tuple[str, ...] = ()
    """Other options of the job, such as --exclusive."""
    srun_options: tuple[str, ...] = ()
    """Other options of the step, such as --container-image=… and --container-mounts=… of pyxis."""
    modules: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Lines of shell before the training. Secrets do not belong here, but in a file that such a line reads."""
    container: tuple[str, ...] = ()
    """Words before each command of the training, such as apptainer exec --nv image.sif."""
    python: str | None = None
    """By default the one that `dragoman submit` runs on; inside a container that of the image."""
    network_interface: str | None = None
    """For NCCL and gloo, such as ib0, where they choose the wrong one."""
    address: str | None = None
    """Only where all nodes are one machine: where its processes meet."""
    requeue: bool = True
    """Whether the cluster lets a job requeue itself; where not, there is `--chain`."""
    max_crashes: int = 10
    """So many crashes in a row are followed by a new start."""
    signal_seconds: int = 300
    """So long before the time limit the run saves and stops: two saves and a step must fit into it."""


def load_profile(name: str | None, overrides: Sequence[str] = ()) -> Profile:
    """The profile of this name in `slurm/profiles`, or in this file; without a name that of the environment.

    Raises UserError where there is none, or where it says what a profile cannot say.
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
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--profile must be one of {', '.join(known)}, or a YAML file, but is {name!r}.")
    profile = load_settings(path, overrides, Profile)
    _check(profile, path)
    return profile


def _check(profile: Profile, path: Path) -> None:
    for name, least in (("processes_per_node", 1), ("cpus_per_process", 1), ("max_crashes", 0), ("signal_seconds", 1)):
        value = getattr(profile, name)
        if value is not None and value < least:
            raise UserError(f"{path}: `{name}` must be at least {least}, but is {value}.")
