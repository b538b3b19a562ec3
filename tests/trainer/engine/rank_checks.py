"""What every rank does in test_engine_laws.py: one group of ranks trains, poisons, saves and resumes each engine."""

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
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
from trainer.engine.process_group import ProcessGroup, rank_and_world_size
from trainer.errors import OutOfMemory

OPTIMIZER = OptimizerConfig(eps=1e-5, weight_decay=0.01, clip=0.3)
LEARNING_RATE = 3e-3
SAVE_AFTER, LAW_STEPS, TRANSFORMER_STEPS = 2, 5, 3
MEMORY_TOKENS = 20
LIMIT_SECONDS = 4.0


class Mode(NamedTuple):
    kind: Any
    precision: Any
    offload: Any

    def create(self, model: nn.Module) -> Engine:
        config = EngineConfig(kind=self.kind, precision=self.precision, offload=self.offload, device="cpu")
        return create_engine(model, ProcessGroup(torch.device("cpu"), config), config, OPTIMIZER)

    @property
    def may_split(self) -> bool:
        """Stage 3 gathers weights in its forward, and cannot repeat one."""
        return self.kind != "zero3" and self.precision == "fp32"


MODES = [
    Mode("ddp", "fp32", "none"),
    *(Mode(kind, precision, "none") for kind in ("zero1", "zero2", "zero3") for precision in ("fp32", "bf16")),
    # Stages 1 and 2 share the code of offload, in which fp32 and bf16 go different ways.
    *(Mode(*mode, "cpu") for mode in (("zero1", "bf16"), ("zero2", "fp32"), ("zero2", "bf16"), ("zero3", "fp32"))),
]
TRANSFORMER_MODES = [mode for mode in MODES if (mode.precision, mode.offload) == ("fp32", "none")]


@dataclass(frozen=True)
class Training:
    """The results of some steps and the weights after them."""

    results: list[StepResult]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Interrupted:
    """`training`: the steps of the law, between which a save, a poisoned step and one above its bound were made."""

    created: MemoryReader
    rehearsed: MemoryReader
    saved: MemoryReader
    poisoned: StepResult
    spiked: StepResult
    after_poison: MemoryReader
    training: Training
    at_the_end: MemoryReader


@dataclass(frozen=True)
class Resumed:
    """What another engine did from the saved state, from the state `foreign`, and from the first one.

    From the first one, `shortage`, the last rank had no memory for micro-batches of more than `MEMORY_TOKENS`.
    """

    loaded: MemoryReader
    results: list[StepResult]
    at_the_end: MemoryReader
    foreign_loaded: MemoryReader
    foreign_results: list[StepResult]
    shortage: Training | None
    single_sentence: str


@dataclass
class Report:
    collectives: tuple[list[float], list[bool], list[Any]]
    interrupted: dict[Mode, Interrupted] = field(default_factory=dict)
    resumed: dict[Mode, Resumed] = field(default_factory=dict)
    transformer: dict[Mode, Training] = field(default_factory=dict)
    waiting: tuple[str | None, str] = (None, "")


def check_all(foreign: MemoryReader, folder: str) -> Report:
    """Every law on this rank. The group is of no use afterwards."""
    # With the default limits a small model stays gathered and ZeRO-3 has nothing to do.
    for limit in deepspeed_config.STAGE3_MEMORY.keys() - {"sub_group_size"}:
        deepspeed_config.STAGE3_MEMORY[limit] = 0
    report = Report(_collectives())
    for mode in MODES:
        # DeepSpeed collects garbage ten times for each bf16 stage 1 engine, among all that its imports have made.
        gc.freeze()
        report.interrupted[mode] = _interrupted(mode)
        report.resumed[mode] = _resumed(mode, report.interrupted[mode], foreign)
    for mode in TRANSFORMER_MODES:
        report.transformer[mode] = train_transformer(mode)
    report.waiting = _wait_for_rank_0(folder)
    return report


def _collectives() -> tuple[list[float], list[bool], list[Any]]:
    group = ProcessGroup(torch.device("cpu"), EngineConfig(kind="ddp"))
    rank = group.rank
    return group.sum([rank, 0.1]), [group.any(rank == 1), group.any(False)], group.gather({"rank": rank})


def _step(engine: Engine, batches: list[Any], loss_fn: Any, max_loss: float | None = None) -> StepResult:
    """One step of this rank's share of `batches`."""
    return engine.step(batches[engine.rank :: engine.world_size], loss_fn, LEARNING_RATE, max_loss)


def steps(engine: Engine, numbers: Sequence[int], loss_fn: Any = None) -> list[StepResult]:
    """Toy steps by number."""
    return [_step(engine, batches_of_step(number), loss_fn or toy_loss) for number in numbers]


def train_transformer(mode: Mode) -> Training:
    engine = mode.create(_tiny_transformer())
    results = [_step(engine, _translation_batches(n), _translation_loss) for n in range(TRANSFORMER_STEPS)]
    weights = engine.full_weights()
    engine.close()
    return Training(results, weights)


def _rehearsed(mode: Mode) -> Engine:
    """With the toy model, as a run has it before its first step."""
    engine = mode.create(build_model())
    engine.rehearse(batches_of_step(0)[:2], toy_loss)
    return engine


def _poisoned_loss(model: nn.Module, batch: ToyBatch) -> LossSums:
    sums = toy_loss(model, batch)
    return sums._replace(loss=sums.loss * math.nan)


def _interrupted(mode: Mode) -> Interrupted:
    engine = mode.create(build_model())
    created = save(engine)
    engine.rehearse(batches_of_step(0)[:2], toy_loss)
    rehearsed = save(engine)
    results = steps(engine, range(SAVE_AFTER))
    saved = save(engine)
    last_rank = engine.rank == engine.world_size - 1
    poisoned = _step(engine, batches_of_step(99), _poisoned_loss if last_rank else toy_loss)
    spiked = _step(engine, batches_of_step(98), toy_loss, max_loss=-math.inf)
    after_poison = save(engine)
    results += steps(engine, range(SAVE_AFTER, LAW_STEPS))
    training, at_the_end = Training(results, engine.full_weights()), save(engine)
    engine.close()
    return Interrupted(created, rehearsed, saved, poisoned, spiked, after_poison, training, at_the_end)


def _resumed(mode: Mode, before: Interrupted, foreign: MemoryReader) -> Resumed:
    rest = range(SAVE_AFTER, LAW_STEPS)
    engine = _rehearsed(mode)
    steps(engine, [77])  # what is loaded must replace moments that exist already
    engine.load_fragments(before.saved)
    loaded = save(engine)
    results, at_the_end = steps(engine, rest), save(engine)
    engine.load_fragments(foreign)
    foreign_loaded, foreign_results = save(engine), steps(engine, rest)
    shortage, single_sentence = None, ""
    if mode.may_split:
        engine.load_fragments(before.created)
        short_results = steps(engine, range(LAW_STEPS), _Short(engine, MEMORY_TOKENS))
        shortage = Training(short_results, engine.full_weights())
    if mode.may_split and mode.kind != "ddp":  # DDP's ranks do not agree on giving up
        single_sentence = _out_of_memory(lambda: steps(engine, [1], _Short(engine, 0)))
    engine.close()
    return Resumed(loaded, results, at_the_end, foreign_loaded, foreign_results, shortage, single_sentence)


class _Short:
    """A loss that finds memory on the last rank only for short micro-batches."""

    def __init__(self, engine: Engine, memory_tokens: int) -> None:
        self._short, self._memory_tokens = engine.rank == engine.world_size - 1, memory_tokens

    def __call__(self, model: nn.Module, batch: ToyBatch) -> LossSums:
        if self._short and batch.num_target_tokens > self._memory_tokens:
            raise torch.OutOfMemoryError("as the allocator would say")
        return toy_loss(model, batch)


def _out_of_memory(action: Callable[[], Any]) -> str:
    try:
        action()
    except OutOfMemory as error:
        return f"{error}"
    return "nothing"


def _wait_for_rank_0(folder: str) -> tuple[str | None, str]:
    """What work of rank 0 returned that took longer than the limit on collectives, and how work that failed ended."""
    rank, world_size = rank_and_world_size()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/short",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=LIMIT_SECONDS),
    )
    group = ProcessGroup(torch.device("cpu"), EngineConfig(timeout_minutes=LIMIT_SECONDS / 60))
    returned = group.while_the_others_wait(_slow_work)
    try:
        group.while_the_others_wait(_failing_work)
    except BaseException as error:
        return returned, type(error).__name__
    return returned, "no error"


def _slow_work() -> str:
    time.sleep(1.5 * LIMIT_SECONDS)
    return "done"


def _failing_work() -> str:
    raise ValueError("no data")


def _tiny_transformer() -> Transformer:
    torch.manual_seed(1)
    sizes = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0)
    return Transformer(sizes, 40, pad_id=0, activation_checkpointing="full")


def _translation_loss(model: nn.Module, batch: PackedBatch) -> LossSums:
    return LossSums(*model(batch, label_smoothing=0.1))


def _translation_batches(step: int) -> list[PackedBatch]:
    generator = torch.Generator().manual_seed(step)
    return [_translation_batch(generator) for _ in range(6)]


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


def check_alone() -> tuple[dict[str, str], list[StepResult]]:
    """What is said if DeepSpeed runs something else than was asked for; and some steps without a launcher."""
    results = _without_launcher()  # first, since an engine that was refused leaves DeepSpeed with its groups
    return _wrong_engines(), results


def _wrong_engines() -> dict[str, str]:
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
    deepspeed_engine.deepspeed_config = asked
    return said


def _without_launcher() -> list[StepResult]:
    """ZeRO-2 in a process that nobody launched. Destroys the group."""
    torch.distributed.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    config = EngineConfig(kind="zero2", precision="fp32", device="cpu")
    processes = ProcessGroup(torch.device("cpu"), config)
    engine = create_engine(build_model(), processes, config, OPTIMIZER)
    results = steps(engine, range(LAW_STEPS))
    engine.close()
    processes.leave()
    assert not torch.distributed.is_initialized()
    return results
