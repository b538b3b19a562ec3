"""The environment of SLURM's own commands."""

import os

# Options of sbatch, squeue, sacct and scontrol. Inside a job, SLURM_* describe that job, and sbatch would pass them on
# to the new one. The profile alone says what a job asks for.
_OPTIONS = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCONTROL_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # which cluster answers, and as whom


def command_environment() -> dict[str, str]:
    """This process's environment without the variables that would change what SLURM's commands do."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or not name.startswith(_OPTIONS)}
