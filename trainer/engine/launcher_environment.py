"""What `accelerate launch` asks for through the environment, compared with what the configuration says.

The configuration alone decides; a launcher that was told something else is a mistake of the user's, because Accelerate
would follow its environment without a word.
"""

import os

from trainer.engine.config import EngineConfig
from trainer.errors import UserError

_OTHER_ENGINES = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


def check_launcher(config: EngineConfig, device_type: str) -> None:
    """Raises UserError where the launcher was told to use another engine or device than `config` names."""
    for name, engine in _OTHER_ENGINES.items():
        if _is_set(name):
            raise UserError(
                f"`accelerate launch` was told to use {engine}, which dragoman does not know: take one of "
                "configs/accelerate/{ddp,zero2,zero3}.yaml."
            )
    if _is_set("ACCELERATE_USE_DEEPSPEED") and not _is_stage(config.kind):
        stage = os.environ.get(_STAGE, "1, 2 or 3")
        raise UserError(
            f"`accelerate launch` was told to use DeepSpeed's ZeRO stage {stage}, but `engine.kind` is {config.kind}: "
            "set `engine.kind` to that stage, such as zero2, or launch with the file of configs/accelerate that is "
            f"called {config.kind}.yaml."
        )
    if _is_set("ACCELERATE_USE_CPU") and device_type != "cpu":
        raise UserError(
            f"`accelerate launch` was told to use the CPU, but `engine.device` is {config.device} and finds "
            f"{device_type}: set engine.device=cpu, or leave `use_cpu` out of Accelerate's file."
        )


def _is_stage(kind: str) -> bool:
    """Whether it is the stage that the launcher was told; a file of DeepSpeed's own may keep that to itself."""
    return kind.startswith("zero") and os.environ.get(_STAGE, kind[-1]) == kind[-1]


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
