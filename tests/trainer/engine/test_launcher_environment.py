"""`accelerate launch` and the configuration must mean the same."""

import pytest

from trainer.engine.config import EngineConfig
from trainer.engine.launcher_environment import check_launcher
from trainer.errors import UserError

DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


@pytest.mark.parametrize(
    ("environment", "kind", "device"),
    [
        ({}, "ddp", "cuda"),
        ({}, "zero3", "cpu"),
        (DEEPSPEED, "zero2", "cuda"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "zero1", "cpu"),  # the stage stands in a file of DeepSpeed's
        ({"ACCELERATE_USE_DEEPSPEED": "false"}, "ddp", "cpu"),
        ({"ACCELERATE_USE_CPU": "true"}, "ddp", "cpu"),
    ],
)
def test_what_agrees_is_let_through(
    environment: dict[str, str], kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", environment)
    check_launcher(EngineConfig(kind=kind), device)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "kind", "part"),
    [
        (DEEPSPEED, "ddp", "stage 2, but `engine.kind` is ddp: set"),
        (DEEPSPEED, "zero3", "configs/accelerate/zero3.yaml"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ddp", "stage 1, 2 or 3, but `engine.kind` is ddp"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ddp", "FSDP"),
        ({"ACCELERATE_USE_CPU": "1"}, "ddp", "engine.device=cpu"),
    ],
)
def test_what_does_not_is_the_users_mistake(
    environment: dict[str, str], kind: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", environment)
    with pytest.raises(UserError) as told:
        check_launcher(EngineConfig(kind=kind), "cuda")  # type: ignore[arg-type]
    assert part in str(told.value)
