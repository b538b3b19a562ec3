"""Variables that describe processes: cleared by `dragoman train`, checked by a worker."""

import pytest

from launch.processes.launcher_variables import check, clear
from trainer.errors import UserError

WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_train_clears_what_any_launcher_has_left() -> None:
    left = {
        **WHOLE, "GROUP_RANK": "0", "ROLE_NAME": "default", "TORCHELASTIC_RUN_ID": "7", "PET_NNODES": "2",
        "ACCELERATE_USE_DEEPSPEED": "true", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "0", "PMIX_RANK": "0",
        "CROSS_SIZE": "1", "LOCAL_SIZE": "1", "NODE_RANK": "0", "DRAGOMAN_OUTCOMES": "/old",
    }  # fmt: skip
    kept = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "1", "RANKS": "9"}
    kept |= {"SLURM_JOB_ID": "5", "TORCH_DISTRIBUTED_DEBUG": "INFO"}
    environment = {**left, **kept}
    sentence = clear(environment)
    assert environment == kept
    assert sentence is not None
    assert all(f" {name}" in sentence for name in left)


def test_a_clean_shell_and_a_shell_in_a_job_need_no_word() -> None:
    environment = {"PATH": "/bin", "SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert clear(environment) is None
    assert environment == {"PATH": "/bin", "SLURM_JOB_ID": "5"}


@pytest.mark.parametrize(
    "environment",
    [
        WHOLE,
        {**WHOLE, "LOCAL_WORLD_SIZE": "2"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"},
        {},
        {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"},  # which some clusters set for every job
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
        {"SLURM_STEP_NUM_TASKS": "2", **WHOLE},
    ],
)
def test_what_launchers_set_is_accepted(environment: dict[str, str]) -> None:
    check(environment)


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"WORLD_SIZE": "2"}, ["has WORLD_SIZE but lacks RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"]),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ["has RANK and WORLD_SIZE but lacks LOCAL_RANK"]),
        ({**WHOLE, "MASTER_PORT": ""}, ["lacks MASTER_PORT"]),
        ({**WHOLE, "RANK": "4"}, ["RANK must be below WORLD_SIZE, which is 4"]),
        ({**WHOLE, "RANK": "-1"}, ["RANK must be a whole number", "'-1'"]),
        ({**WHOLE, "WORLD_SIZE": "two"}, ["WORLD_SIZE must be a whole number", "'two'"]),
        ({**WHOLE, "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, ["LOCAL_RANK must be below LOCAL_WORLD_SIZE"]),
        ({**WHOLE, "LOCAL_WORLD_SIZE": "8"}, ["at most WORLD_SIZE"]),
        ({**WHOLE, "MASTER_PORT": "70000"}, ["MASTER_PORT must be a port"]),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ["2 processes were started (SLURM_STEP_NUM_TASKS)"]),
        ({"OMPI_COMM_WORLD_SIZE": "4", "MASTER_ADDR": "n1"}, ["4 processes were started"]),
    ],
)
def test_what_cannot_be_right_is_one_sentence(environment: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        check(environment)
    assert all(part in str(raised.value) for part in parts), raised.value
