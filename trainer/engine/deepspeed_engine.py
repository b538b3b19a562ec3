"""ZeRO stages 1, 2 and 3, with optional offload of the optimizer's state, by DeepSpeed."""

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from io import StringIO
from math import inf
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.base import FragmentReader
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.deepspeed_config import STAGES, deepspeed_config
from trainer.engine.optimizer import build_optimizer
from trainer.engine.optimizer_step import SteppingEngine
from trainer.engine.process_group import ProcessGroup
from trainer.engine.slices import Slice, write_slices


class DeepSpeedEngine(SteppingEngine):
    """Every rank holds a part of the fp32 weights and moments and saves exactly that part.

    Under bf16 the parameters themselves are bf16, and only these parts are fp32. `model` is in host memory; all ranks
    start from rank 0's weights.
    """

    def __init__(
        self, model: nn.Module, processes: ProcessGroup, config: EngineConfig, optimizer: OptimizerConfig
    ) -> None:
        super().__init__(processes)
        for parameter in model.parameters():
            self._processes.broadcast_host_tensor(parameter.data)
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        original = {name: p.detach() for name, p in model.named_parameters()}
        adamw = build_optimizer(model, optimizer)
        deepspeed = _import_deepspeed(self.device)
        with redirect_stdout(StringIO()):  # it prints the memory in use several times
            self._engine, *_ = deepspeed.initialize(
                model=model, optimizer=adamw, config=deepspeed_config(config, optimizer)
            )
        self._zero: Any = self._engine.optimizer
        self._stage = STAGES[config.kind]
        self._offloads = config.offload != "none"
        # Stage 3 gathers weights in each forward: a rank that fails in one leaves the others waiting in it.
        self._may_split = self._stage < 3
        self._check_engine(config, optimizer)
        self._restore_precision(original)

    def _check_engine(self, config: EngineConfig, optimizer: OptimizerConfig) -> None:
        """Asserts that DeepSpeed runs what was asked for, whatever its environment says."""
        engine, zero = self._engine, self._zero
        assert engine.zero_optimization_stage() == self._stage, (
            f"DeepSpeed runs stage {engine.zero_optimization_stage()}"
        )
        assert engine.world_size == engine.dp_world_size == self.world_size, f"DeepSpeed sees {engine.world_size} ranks"
        assert type(self._optimizer) is torch.optim.AdamW, f"DeepSpeed steps {type(self._optimizer).__name__}"
        assert engine.bfloat16_enabled() == (config.precision == "bf16"), "DeepSpeed runs in another precision"
        assert zero.clip_grad == optimizer.clip, f"DeepSpeed clips at {zero.clip_grad}"
        assert not engine.managed_gradient_accumulation(), "DeepSpeed would count micro-batches itself"
        expected = {1: "DeepSpeedZeroOptimizer", 2: "DeepSpeedZeroOptimizer", 3: "DeepSpeedZeroOptimizer_Stage3"}
        name = expected[self._stage]
        if self._stage == 1 and config.precision == "bf16" and config.offload == "none":
            name = "BF16_Optimizer"  # DeepSpeed's stage 1 where accumulation is fp32 and parameters are bf16
        assert type(zero).__name__ == name, f"DeepSpeed runs {type(zero).__name__}"

    def _restore_precision(self, original: dict[str, Tensor]) -> None:
        """Writes the fp32 weights into the masters, which DeepSpeed makes from parameters already rounded to bf16."""
        for piece in self._slices():
            flat = original[piece.name].view(-1)
            piece.of(piece.master).copy_(flat[piece.offset : piece.offset + piece.length])

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self._zero.optimizer

    @property
    def _model(self) -> nn.Module:
        return self._engine

    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    def _agree_to_split(self, out_of_memory: bool) -> bool:
        """All ranks or none, because each backward reduces gradients. A stage that may not split does not ask."""
        return self._may_split and self.any(out_of_memory)

    def _agree_to_give_up(self, single_sentence: bool) -> bool:
        return self.any(single_sentence)

    def _update(self, lr: float) -> float:
        for group in self._zero.param_groups:
            group["lr"] = lr
        self._engine.step()
        if self._engine.was_step_applied():
            return float(self._engine.get_global_grad_norm())
        if self._offloads and self._stage < 3:
            # DeepSpeed 0.19.8 would add the next step's gradients to the NaN it has just refused.
            self._zero.averaged_gradients = dict.fromkeys(self._zero.averaged_gradients)
        return inf

    def _slices(self) -> Sequence[Slice]:
        find = self._slice_of_stage3 if self._stage == 3 else self._slice_of_partition
        found = (find(name, parameter) for name, parameter in self._engine.module.named_parameters())
        return [piece for piece in found if piece is not None]

    def _slice_of_partition(self, name: str, parameter: Any) -> Slice | None:
        """Stages 1 and 2 cut the concatenated parameters of a group into equal parts, one per rank."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
        (master,) = self._optimizer.param_groups[mapping.param_group_index]["params"]
        return Slice(name, here.start, here.numel, master, there.start)

    def _slice_of_stage3(self, name: str, parameter: Any) -> Slice | None:
        """Stage 3 cuts every parameter into equal parts, one per rank; the last may be padding, in part or whole."""
        group, start, numel = self._zero.grad_position[self._zero.get_param_id(parameter)]
        offset = self.rank * numel
        length = min(numel, parameter.ds_numel - offset)
        if length <= 0:
            return None
        return Slice(name, offset, length, self._zero.fp32_partitioned_groups_flat[group], start)

    def load_fragments(self, reader: FragmentReader) -> None:
        """See `Engine.load_fragments`. Every rank reads only what it owns."""
        write_slices(self._slices(), self._optimizer, reader)
        self._refresh_parameters()
        self.num_updates = reader.num_updates

    def _refresh_parameters(self) -> None:
        """Copies the fp32 masters into the parameters that the model computes with."""
        if self._stage < 3:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()
        for number in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(number)
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def full_weights(self) -> dict[str, Tensor]:
        """See `Engine.full_weights`. The sum of all ranks' fp32 masters, hence exact under bf16 too."""
        weights = {name: torch.zeros(shape, device=self.device) for name, shape in self._shapes.items()}
        for piece in self._slices():
            flat = weights[piece.name].view(-1)
            flat[piece.offset : piece.offset + piece.length].copy_(piece.of(piece.master))
        for tensor in weights.values():
            self._processes.sum_tensor(tensor)
        return weights

    def close(self) -> None:
        self._engine.destroy()
        from deepspeed.utils import groups

        # Otherwise the next engine of this process would use groups that may be destroyed by then.
        groups._release_process_group_references(group=None)


def _import_deepspeed(device: torch.device) -> ModuleType:
    """Imports DeepSpeed, which reads from the environment, at its import, which device to use."""
    os.environ.setdefault("LOCAL_RANK", "0")  # required even if one process runs without a launcher
    os.environ["DS_ACCELERATOR"] = device.type
    if device.type == "cpu":
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # It calls collectives by names that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", message=".*(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated")
    import deepspeed

    # It logs to standard output, which is for results. `StepResult` reports a skipped step.
    deepspeed.logger.setLevel("ERROR")
    # On the CPU DeepSpeed would compile a shared-memory collective at start-up, and die without a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
