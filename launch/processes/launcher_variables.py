"""The environment variables by which a launcher describes its processes.

`dragoman train` starts its own processes and clears what another launcher has left in the shell. A worker relies on
these variables and refuses a set that cannot be right, before it would wait for processes that do not exist.
"""

import re
from collections.abc import Mapping, MutableMapping

from trainer.errors import UserError

REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
# Set by MPI and by srun for each process of several; a worker would otherwise start as many runs of one process.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_LEFT_BY_LAUNCHERS = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|NODE_RANK|LOCAL_SIZE|CROSS_RANK|CROSS_SIZE"
    r"|(GROUP|ROLE)_(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|PET|ACCELERATE|FSDP|MEGATRON_LM|PARALLELISM_CONFIG|OMPI|PMI|PMIX|MV2|MPI|HYDRA)_.*"
    r"|DRAGOMAN_(LAUNCH|OUTCOMES)"
)
# Every shell inside a job of SLURM has these: nothing that the user would want to hear about.
_LEFT_BY_SLURM = re.compile(r"SLURM_(PROCID|LOCALID|NODEID|STEP_NUM_TASKS|STEP_TASKS_PER_NODE)")


def clear(environment: MutableMapping[str, str]) -> str | None:
    """Removes the variables of other launchers. Returns a sentence that names them, or None without any."""
    names = sorted(name for name in environment if _LEFT_BY_LAUNCHERS.fullmatch(name))
    for name in [*names, *filter(_LEFT_BY_SLURM.fullmatch, list(environment))]:
        del environment[name]
    if not names:
        return None
    return f"`dragoman train` starts its own processes: it ignores {', '.join(names)} from the environment."


def check(environment: Mapping[str, str]) -> None:
    """Raises UserError if the variables that describe this process are incomplete or contradict each other."""
    present = [name for name in REQUIRED if environment.get(name)]
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(present):
        _refuse_undescribed_processes(environment)
        return
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise UserError(
            f"the environment has {' and '.join(present)} but lacks {', '.join(missing)}: a launcher sets all of "
            f"{', '.join(REQUIRED)}. Unset them, or use `dragoman train`, which starts its own processes."
        )
    numbers = {name: _number(name, environment[name]) for name in _NUMBERS if environment.get(name)}
    world_size = numbers["WORLD_SIZE"]
    if not numbers["RANK"] < world_size:
        raise UserError(
            f"RANK must be below WORLD_SIZE, which is {world_size}, but the environment has {numbers['RANK']}."
        )
    local_size = numbers.get("LOCAL_WORLD_SIZE", world_size)
    if not numbers["LOCAL_RANK"] < local_size <= world_size:
        raise UserError(
            f"LOCAL_RANK must be below LOCAL_WORLD_SIZE, and that at most WORLD_SIZE, but the environment has "
            f"{numbers['LOCAL_RANK']}, {local_size} and {world_size}."
        )
    if not 0 < numbers["MASTER_PORT"] < 65536:
        raise UserError(f"MASTER_PORT must be a port, 1 to 65535, but the environment has {numbers['MASTER_PORT']}.")


def _refuse_undescribed_processes(environment: Mapping[str, str]) -> None:
    for name in _SIZES:
        if environment.get(name, "1").isdigit() and int(environment.get(name, "1")) > 1:
            raise UserError(
                f"{environment[name]} processes were started ({name}), but RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR "
                "and MASTER_PORT are not set, by which a worker knows which one it is: set them, or start one torchrun "
                "on each machine."
            )


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text.strip(), re.ASCII):
        raise UserError(f"{name} must be a whole number, but the environment has {text!r}.")
    return int(text)
