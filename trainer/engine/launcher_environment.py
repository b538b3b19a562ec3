"""Compares what `accelerate launch` asks for through the environment with the configuration.

The configuration decides. A launcher that asks for something else is the user's mistake, because Accelerate would
follow its environment without saying so.
"""

import os

from trainer.engine.config import EngineConfig
from trainer.errors import UserError

_OTHER_ENGINES = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


def check_launcher(config: EngineConfig, device_type: str) -> None:
    """Raises UserError if the launcher asks for another engine or device than `config`."""
    for name, engine in _OTHER_ENGINES.items():
        if _is_set(name):
            raise UserError(
                f"`accelerate launch` asks for {engine}, which dragoman does not support: use one of "
                "configs/accelerate/{ddp,zero1,zero2,zero3}.yaml."
            )
    if _is_set("ACCELERATE_USE_DEEPSPEED") and not _is_stage(config.kind):
        stage = os.environ.get(_STAGE, "1, 2 or 3")
        raise UserError(
            f"`accelerate launch` asks for DeepSpeed's ZeRO stage {stage}, but `engine.kind` is {config.kind}: "
            f"set `engine.kind` to that stage, such as zero2, or launch with configs/accelerate/{config.kind}.yaml."
        )
    if _is_set("ACCELERATE_USE_CPU") and device_type != "cpu":
        raise UserError(
            f"`accelerate launch` asks for the CPU, but `engine.device` is {config.device} and finds {device_type}: "
            "set engine.device=cpu, or remove `use_cpu` from Accelerate's file."
        )


def _is_stage(kind: str) -> bool:
    """Whether `kind` is the launcher's ZeRO stage, or any stage if only a DeepSpeed file of the user's names it."""
    return kind.startswith("zero") and os.environ.get(_STAGE, kind[-1]) == kind[-1]


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
