"""The DeepSpeed dictionary is a pure function of our configuration and leaves nothing to DeepSpeed."""

from collections.abc import Iterator
from typing import Any

import pytest

from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.deepspeed_config import deepspeed_config


def _values(tree: dict[str, Any]) -> Iterator[Any]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _values(value)
        else:
            yield value


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_says_what_was_asked_for_and_nothing_automatic(kind: Any, offload: Any) -> None:
    found = deepspeed_config(EngineConfig(kind=kind, offload=offload), OptimizerConfig(clip=0.7))
    assert found["zero_optimization"]["stage"] == int(kind[-1])
    assert found["gradient_clipping"] == 0.7
    assert ("offload_optimizer" in found["zero_optimization"]) == (offload == "cpu")
    assert "auto" not in list(_values(found))


def test_accumulation_is_ours_and_in_fp32() -> None:
    found = deepspeed_config(EngineConfig(kind="zero2", precision="bf16"), OptimizerConfig())
    assert found["gradient_accumulation_steps"] == 1
    assert found["managed_gradient_accumulation"] is False
    assert found["communication_data_type"] == found["data_types"]["grad_accum_dtype"] == "fp32"
    assert found["bf16"] == {"enabled": True, "check_grad_overflow": True}


def test_fp32_switches_every_low_precision_off() -> None:
    found = deepspeed_config(EngineConfig(kind="zero1", precision="fp32"), OptimizerConfig())
    assert not any(found[name]["enabled"] for name in ("fp16", "bf16", "torch_autocast"))


def test_stage3_settings_are_explicit_and_only_for_stage3() -> None:
    stage3 = deepspeed_config(EngineConfig(kind="zero3"), OptimizerConfig())["zero_optimization"]
    stage2 = deepspeed_config(EngineConfig(kind="zero2"), OptimizerConfig())["zero_optimization"]
    names = {"max_live_parameters", "max_reuse_distance", "prefetch_bucket_size", "param_persistence_threshold"}
    assert {f"stage3_{name}" for name in names} <= stage3.keys()
    assert not any(key.startswith("stage3_") for key in stage2)


def test_nothing_is_shared_between_two_calls() -> None:
    config, optimizer = EngineConfig(kind="zero3"), OptimizerConfig()
    deepspeed_config(config, optimizer)["zero_optimization"]["stage"] = 0
    assert deepspeed_config(config, optimizer)["zero_optimization"]["stage"] == 3
