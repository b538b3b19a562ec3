"""What every rank does in test_engine_laws.py: one launch trains, poisons, saves and resumes every engine in turn."""

import gc
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.batch import PackedBatch
from model.config import ModelConfig
from model.transformer import Transformer
from tests.trainer.engine.toy import MemoryReader, ToyBatch, batches_of_step, build_model, save, toy_loss
from trainer.engine import create_engine, deepspeed_config
from trainer.engine.base import Engine, LossSums, StepResult
from trainer.engine.config import EngineConfig, OptimizerConfig
from trainer.engine.process_group import ProcessGroup
from trainer.errors import OutOfMemory

OPTIMIZER = OptimizerConfig(eps=1e-5, weight_decay=0.01, clip=0.3)
LEARNING_RATE, SAVE_AFTER, RESUMED_STEPS = 3e-3, 3, 4
LAW_STEPS = {"fp32": 20, "bf16": 5}


class Mode(NamedTuple):
    kind: Any
    precision: Any
    offload: Any

    def create(self, model: nn.Module) -> Engine:
        config = EngineConfig(kind=self.kind, precision=self.precision, offload=self.offload, device="cpu")
        return create_engine(model, ProcessGroup(torch.device("cpu"), config), config, OPTIMIZER)

    def rehearsed(self) -> Engine:
        """With the toy model, as a run has it before its first step."""
        engine = self.create(build_model())
        engine.rehearse(batches_of_step(0)[:2], toy_loss)
        return engine


MODES = [
    Mode("ddp", "fp32", "none"),
    *(Mode(kind, precision, "none") for kind in ("zero1", "zero2", "zero3") for precision in ("fp32", "bf16")),
    # Stages 1 and 2 share the code of offload, in which fp32 and bf16 go different ways.
    *(Mode(*mode, "cpu") for mode in (("zero1", "bf16"), ("zero2", "fp32"), ("zero2", "bf16"), ("zero3", "fp32"))),
]
# Stage 3 gathers weights in its forward, and cannot take one back.
SPLITTING_MODES = [mode for mode in MODES if mode.kind != "zero3" and mode.precision == "fp32"]
MEMORY_TOKENS = 20
TRANSFORMER_MODES = [mode for mode in MODES if (mode.precision, mode.offload) == ("fp32", "none")]


@dataclass(frozen=True)
class Training:
    """A law run: the results of its steps and the weights after them."""

    results: list[StepResult]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Resumption:
    """States and results around a save, a poisoned step and a resumption."""

    untrained: MemoryReader
    saved: MemoryReader
    poisoned: StepResult
    spiked: StepResult
    after_poison: MemoryReader
    continued: list[StepResult]
    at_the_end: MemoryReader
    loaded: MemoryReader
    resumed: list[StepResult]
    resumed_at_the_end: MemoryReader
    foreign_loaded: MemoryReader
    foreign_resumed: list[StepResult]


def steps(engine: Engine, numbers: Sequence[int]) -> list[StepResult]:
    """Toy steps by number, this rank's share of each."""
    return [_step(engine, batches_of_step, toy_loss, number) for number in numbers]


def _step(
    engine: Engine, batches: Callable[[int], list[Any]], loss_fn: Any, number: int, max_loss: float | None = None
) -> StepResult:
    return engine.step(batches(number)[engine.rank :: engine.world_size], loss_fn, LEARNING_RATE, max_loss)


@dataclass(frozen=True)
class Shortage:
    """Steps in which the last rank had no memory for more than `MEMORY_TOKENS`, and what else became of it."""

    results: list[StepResult]
    weights: dict[str, Tensor]
    before_rehearsal: MemoryReader
    after_rehearsal: MemoryReader
    too_short: str


@dataclass(frozen=True)
class Report:
    toy: dict[Mode, Training]
    transformer: dict[Mode, Training]
    resumption: dict[Mode, Resumption]
    shortage: dict[Mode, Shortage]


def check_all(foreign: MemoryReader) -> Report:
    """The law on both models, then saving and resuming, also from the state `foreign`."""
    # With the default limits a small model stays gathered and ZeRO-3 has nothing to do.
    for limit in deepspeed_config.STAGE3_MEMORY.keys() - {"sub_group_size"}:
        deepspeed_config.STAGE3_MEMORY[limit] = 0
    # DeepSpeed collects garbage ten times for each bf16 stage 1 engine, among all that its import has made.
    import deepspeed  # noqa: F401

    gc.freeze()
    return Report(
        toy={mode: train(mode, build_model(), batches_of_step, toy_loss) for mode in MODES},
        transformer={
            mode: train(mode, tiny_transformer(), translation_batches, translation_loss) for mode in TRANSFORMER_MODES
        },
        resumption={mode: _resume(mode, foreign) for mode in MODES},
        shortage={mode: _run_short(mode) for mode in SPLITTING_MODES},
    )


def train(mode: Mode, model: nn.Module, batches: Callable[[int], list[Any]], loss_fn: Any) -> Training:
    engine = mode.create(model)
    results = [_step(engine, batches, loss_fn, number) for number in range(LAW_STEPS[mode.precision])]
    weights = engine.full_weights()
    engine.close()
    return Training(results, weights)


def _poisoned_loss(model: nn.Module, batch: ToyBatch) -> LossSums:
    sums = toy_loss(model, batch)
    return sums._replace(loss=sums.loss * math.nan)


def _resume(mode: Mode, foreign: MemoryReader) -> Resumption:
    rest = range(SAVE_AFTER, SAVE_AFTER + RESUMED_STEPS)
    engine = mode.rehearsed()
    untrained = save(engine)
    steps(engine, range(SAVE_AFTER))
    saved = save(engine)
    last_rank = engine.rank == engine.world_size - 1
    poisoned = _step(engine, batches_of_step, _poisoned_loss if last_rank else toy_loss, 99)
    spiked = _step(engine, batches_of_step, toy_loss, 98, max_loss=-math.inf)
    after_poison = save(engine)
    continued, at_the_end = steps(engine, rest), save(engine)
    engine.close()

    engine = mode.rehearsed()
    steps(engine, [77])  # what is loaded must replace moments that exist already
    engine.load_fragments(saved)
    loaded = save(engine)
    resumed, resumed_at_the_end = steps(engine, rest), save(engine)
    engine.load_fragments(foreign)
    foreign_loaded, foreign_resumed = save(engine), steps(engine, rest)
    engine.close()
    return Resumption(
        untrained, saved, poisoned, spiked, after_poison, continued, at_the_end,
        loaded, resumed, resumed_at_the_end, foreign_loaded, foreign_resumed,
    )  # fmt: skip


class _Short:
    """A loss that finds memory on the last rank only for short micro-batches."""

    def __init__(self, engine: Engine, memory_tokens: int) -> None:
        self._short, self._memory_tokens = engine.rank == engine.world_size - 1, memory_tokens

    def __call__(self, model: nn.Module, batch: ToyBatch) -> LossSums:
        if self._short and batch.num_target_tokens > self._memory_tokens:
            raise torch.OutOfMemoryError("as the allocator would say")
        return toy_loss(model, batch)


def _run_short(mode: Mode) -> Shortage:
    engine = mode.create(build_model())
    before = save(engine)
    engine.rehearse(batches_of_step(0)[:2], toy_loss)
    after = save(engine)
    loss_fn = _Short(engine, MEMORY_TOKENS)
    results = [_step(engine, batches_of_step, loss_fn, number) for number in range(LAW_STEPS["fp32"])]
    weights = engine.full_weights()
    too_short = "nothing"
    if mode.kind != "ddp":  # there all agree that a single sentence is not cut
        too_short = _told(lambda: _step(engine, batches_of_step, _Short(engine, 0), 1))
    engine.close()
    return Shortage(results, weights, before, after, too_short)


def _told(action: Callable[[], Any]) -> str:
    try:
        action()
    except OutOfMemory as error:
        return f"{error}"
    return "nothing"


def tiny_transformer() -> Transformer:
    torch.manual_seed(1)
    sizes = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
    return Transformer(sizes, 40, pad_id=0, activation_checkpointing="full")


def translation_loss(model: nn.Module, batch: PackedBatch) -> LossSums:
    return LossSums(*model(batch, label_smoothing=0.1))


def translation_batches(step: int) -> list[PackedBatch]:
    generator = torch.Generator().manual_seed(step)
    return [_translation_batch(generator) for _ in range(4)]


def _translation_batch(generator: torch.Generator) -> PackedBatch:
    num_sentences = int(torch.randint(1, 5, (), generator=generator))
    source, target = torch.randint(2, 9, (2, num_sentences), generator=generator).tolist()

    def ids(lengths: list[int]) -> Tensor:
        return torch.randint(4, 40, (sum(lengths),), generator=generator)

    def positions(lengths: list[int]) -> Tensor:
        return torch.cat([torch.arange(length) for length in lengths])

    def cu(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)

    return PackedBatch(
        ids(source), positions(source), cu(source), ids(target), ids(target), positions(target), cu(target),
        max(source), max(target), sum(target),
    )  # fmt: skip


def wrong_engines() -> dict[str, str]:
    """What is said when DeepSpeed runs something else than was asked for."""
    from trainer.engine import deepspeed_engine

    asked, said = deepspeed_engine.deepspeed_config, {}
    for name, change in {
        "stage": {"zero_optimization": {"stage": 1}},
        "clip": {"gradient_clipping": 5.0},
        "precision": {"bf16": {"enabled": True}},
    }.items():
        deepspeed_engine.deepspeed_config = lambda *args, change=change: asked(*args) | change
        try:
            Mode("zero2", "fp32", "none").create(build_model())
            said[name] = "nothing"
        except AssertionError as error:
            said[name] = str(error)
    return said


def collectives() -> tuple[list[float], list[bool], list[Any]]:
    engine = Mode("ddp", "fp32", "none").create(build_model())
    rank = engine.rank
    return engine.sum([rank, 0.1]), [engine.any(rank == 1), engine.any(False)], engine.gather({"rank": rank})


def without_launcher() -> list[StepResult]:
    """ZeRO-2 in a process that nobody launched."""
    torch.distributed.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    config = EngineConfig(kind="zero2", precision="fp32", device="cpu")
    processes = ProcessGroup(torch.device("cpu"), config)
    engine = create_engine(build_model(), processes, config, OPTIMIZER)
    results = steps(engine, range(3))
    engine.close()
    processes.leave()
    assert not torch.distributed.is_initialized()
    return results
