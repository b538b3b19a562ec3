"""Puts one run together: the only file that names the concrete classes side by side."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from model.transformer import Transformer
from trainer.checkpoints.restore import newest_verified, restore, restore_engine
from trainer.configuration.sections import Config
from trainer.data.feeding.feed import TrainingData
from trainer.data.order.partition import Partition, check_world_size
from trainer.data.preparation.build_stores import Prepared, open_prepared
from trainer.data.preparation.recipe import store_directory
from trainer.data.preparation.validation import load_validation
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.tokenizer import TokenizerPair
from trainer.engine import create_engine
from trainer.engine.base import Engine
from trainer.engine.config import EngineConfig
from trainer.engine.device import choose_device
from trainer.engine.launcher_environment import check_launcher
from trainer.engine.process_group import ProcessGroup, rank_and_world_size
from trainer.errors import OutOfMemory, UserError, error_line
from trainer.inference.model_directory import build_model
from trainer.reporting.background_tracker import BackgroundTracker, Trackers
from trainer.reporting.console import Console, RunFacts
from trainer.reporting.metrics_file import MetricsFile
from trainer.reporting.model_flops import peak_warnings
from trainer.reporting.reporter import Reporter
from trainer.reporting.start_facts import start_facts
from trainer.reporting.tensorboard_sink import TensorBoardSink, require_tensorboard
from trainer.reporting.wandb_sink import create_wandb_tracker
from trainer.run_directory.layout import CHECKPOINTS, checkpoint_name, metrics_path
from trainer.run_directory.opening import open_run_directory
from trainer.run_directory.ownership import owning
from trainer.run_directory.rank_log import RankLog
from trainer.run_directory.state import RunState
from trainer.run_directory.stop_reason import RunOutcome, StopReason
from trainer.run_directory.watchdog import Watchdog, end_process
from trainer.training.collaborators import Collaborators
from trainer.training.loop import Loop
from trainer.training.micro_batch_parts import num_parts, remember_parts
from trainer.training.progress import Progress
from trainer.training.schedule import schedule_warnings
from trainer.training.stop_request import StopRequest
from trainer.training.validation import Validator


def train(config: Config, give_up: Callable[[str], None] = end_process) -> StopReason:
    """Runs this process's part of the training, resuming from the newest checkpoint if there is one.

    The launcher's environment says which process this is. `give_up` gets the reason if this process hangs, and must
    end it. Returns why training ended. Raises UserError for the user's mistakes.
    """
    rank, world_size = rank_and_world_size()
    check_world_size(config.data, world_size)
    device = choose_device(config.engine.device)
    check_launcher(config.engine, device.type)
    if config.tracking.tensorboard:
        require_tensorboard()
    processes = ProcessGroup(device, config.engine)
    prepared = processes.while_the_others_wait(lambda: open_run_directory(config))
    prepared = prepared or open_prepared(config.data, config.run.directory)
    stop = StopRequest().install()  # until here there is nothing to save, and a signal ends the process
    directory = Path(config.run.directory)
    with (
        owning(directory) if rank == 0 else nullcontext(),
        RankLog(directory, rank, world_size) as log,
        # First, so that its processes start while the model is built.
        closing(training_data(config, prepared, Partition(rank, world_size), device)) as data,
        closing(Watchdog(directory, rank, config.hang, log.reporting(give_up)).start()) as watchdog,
    ):
        state = RunState(directory, rank, world_size, config.run.max_steps)
        try:
            reason = _train(config, processes, prepared, data, stop, _Signs(watchdog, state, log))
        except BaseException as error:
            state.failed(watchdog.step, error)
            if isinstance(error, OutOfMemory):
                remember_parts(config, 2 * num_parts(config))
            raise
    processes.leave()
    return reason


@dataclass(frozen=True)
class _Signs:
    """What a process shows of itself to other programs and to people."""

    watchdog: Watchdog
    state: RunState
    log: RankLog


def _train(
    config: Config, processes: ProcessGroup, prepared: Prepared, data: TrainingData, stop: StopRequest, signs: _Signs
) -> StopReason:
    model = initial_model(config, prepared.tokenizers)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    engine = create_engine(model, processes, config.engine, config.optimizer)
    resumed = newest_verified(engine, Path(config.run.directory))
    document = restore(resumed, engine, data, prepared.tokenizers.fingerprint) if resumed else None
    progress = Progress.from_document(document, config.evaluation.metric) if document else Progress()
    former_rate = document.learning_rate if document else None
    warnings = schedule_warnings(config, engine.num_updates, former_rate, progress.lr_scale)
    warnings += peak_warnings(engine.device)
    facts = _run_facts(config, engine, prepared, progress.step, num_parameters, warnings)
    reporter = _reporter(config, engine, facts, progress, signs.log)
    outcome = RunOutcome.FAILED
    signs.state.training(progress.step)
    try:
        reporter.start(start_facts(engine.device, engine.world_size, num_parameters) if engine.rank == 0 else {})
        validator = _validator(config, prepared.tokenizers)
        go_back = partial(_go_back, config, engine)
        collaborators = Collaborators(
            engine, data, validator, reporter, stop, signs.watchdog, go_back, engine.gather(num_parts(config))[0],
            vocab_size=prepared.tokenizers.target.vocab_size, tokenizer=prepared.tokenizers.fingerprint,
        )  # fmt: skip
        loop = Loop(config, collaborators, progress)
        reason = loop.run()
        signs.state.ended(loop.progress.step, reason)
        reporter.finish(loop.progress.step, reason, _best(config, loop.progress))
        outcome = reason.outcome
    except Exception as error:
        with suppress(UserError):  # the metrics may be what cannot be written
            reporter.failed(max(signs.watchdog.step, progress.step), error_line(error))
        raise
    finally:
        reporter.close(outcome)
    # Not after a failure: the other ranks would fail in their next collective before this one has reported the cause.
    engine.close()
    return reason


def training_data(config: Config, prepared: Prepared, partition: Partition, device: torch.device) -> TrainingData:
    """This rank's micro-batches; on CUDA all of one shape."""
    data, sampling = config.data, config.tokenizer.sampling
    encoder = PairEncoder(prepared.tokenizers, data.max_length, sampling) if data.mode == "stream" else None
    return TrainingData(
        prepared.stores,
        data,
        prepared.tokenizers.special_ids,
        seed=config.run.seed,
        partition=partition,
        static=device.type == "cuda",
        encoder=encoder,
    )


def initial_model(config: Config, tokenizers: TokenizerPair) -> Transformer:
    """The model of a run in host memory, initialised from `run.seed` alone: alike on every rank."""
    torch.manual_seed(config.run.seed)
    return build_model(config, tokenizers, compute_dtype(config.engine))


def compute_dtype(config: EngineConfig) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def _go_back(config: Config, engine: Engine) -> Progress | None:
    path = newest_verified(engine, Path(config.run.directory))
    return Progress.from_document(restore_engine(path, engine), config.evaluation.metric) if path else None


def _validator(config: Config, tokenizers: TokenizerPair) -> Validator | None:
    if not config.data.valid:
        return None
    replica = build_model(config, tokenizers, compute_dtype(config.engine))
    store = store_directory(config.data, config.run.directory)
    sets = [load_validation(corpus, tokenizers, store) for corpus in config.data.valid]
    return Validator(replica, tokenizers, sets, config.evaluation, config.data)


def _run_facts(
    config: Config, engine: Engine, prepared: Prepared, start_step: int, num_parameters: int, warnings: Sequence[str]
) -> RunFacts:
    return RunFacts(
        run_directory=Path(config.run.directory),
        num_parameters=num_parameters,
        world_size=engine.world_size,
        engine=config.engine.kind,
        precision=config.engine.precision,
        corpora=[(store.manifest.name, store.manifest.num_pairs) for store in prepared.stores],
        tokens_per_step=config.data.max_tokens * config.data.micro_batches_per_step,
        start_step=start_step,
        warnings=warnings,
    )


def _reporter(config: Config, engine: Engine, facts: RunFacts, progress: Progress, log: RankLog) -> Reporter:
    directory = Path(config.run.directory)
    console = Console(engine.rank == 0, config.run.max_steps, log.screen, keep=log.keep)
    if engine.rank != 0:
        return Reporter(facts, console)
    # Before the tracker, which may send again what the file still holds.
    metrics = MetricsFile.open(metrics_path(directory), progress.step, progress.validation_due)
    tracker = create_wandb_tracker(directory, config.tracking.wandb, asdict(config), console.message)
    if config.tracking.tensorboard:
        sink = TensorBoardSink(directory, progress.step)
        tracker = Trackers(tracker, BackgroundTracker(sink, console.message, name="TensorBoard"))
    return Reporter(facts, console, metrics, tracker)


def _best(config: Config, progress: Progress) -> str | None:
    if progress.best_step is None or config.checkpoint.keep_best == 0:
        return None
    path = Path(config.run.directory) / CHECKPOINTS / checkpoint_name(progress.best_step)
    if not path.exists():
        return None
    return f"{path} ({config.evaluation.metric} {abs(progress.best_score or 0.0):.2f})"
