"""DeepSpeed's configuration dictionary, derived from ours."""

from typing import Any

from trainer.engine.config import EngineConfig, OptimizerConfig

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}

# DeepSpeed 0.19's own defaults, except the reduction buffer: 5e8 elements are 2 GB in fp32 before training starts.
_BUFFERS: dict[str, Any] = {
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 50_000_000,
    "allgather_partitions": True,
    "allgather_bucket_size": 500_000_000,
    "round_robin_gradients": False,
}
STAGE3_MEMORY: dict[str, Any] = {
    "sub_group_size": 1_000_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
}


def deepspeed_config(engine: EngineConfig, optimizer: OptimizerConfig) -> dict[str, Any]:
    """Returns every setting that our step depends on, since DeepSpeed's defaults change between releases.

    Accumulation is ours ("unmanaged"): DeepSpeed sees one micro-batch of unknown size per backward, and updates when
    we call its step. Gradients are accumulated and reduced in fp32 whatever the precision of the parameters.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,  # required, but without meaning for packed batches
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.clip,
        "prescale_gradients": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {"enabled": engine.precision == "bf16", "check_grad_overflow": True},
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": True,  # AdamW is a subclass of the tested Adam
        "zero_force_ds_cpu_optimizer": False,  # fused torch AdamW runs on the CPU without a C++ build
        "zero_optimization": _zero_optimization(engine),
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
    }


def _zero_optimization(engine: EngineConfig) -> dict[str, Any]:
    stage = STAGES[engine.kind]
    # Overlapping communication is refused by stages 1 and 3 when accumulation is ours.
    settings: dict[str, Any] = {"stage": stage, "overlap_comm": False, **_BUFFERS}
    if stage == 3:
        settings |= STAGE3_MEMORY
    if engine.offload == "cpu":
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return settings
