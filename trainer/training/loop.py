"""The training loop: steps, and between two steps what is due (report, validation, checkpoint, stop).

The loop knows no device, no process group and no library: it is handed ready collaborators by `trainer.run`. Every
decision that leads into a collective is taken from values that are the same on all ranks.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn

from trainer.checkpoints.policy import RunSaving
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration.sections import Config
from trainer.data.feeding.feed import TrainingData, merge_states
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import Engine, LossFunction, LossSums, StepResult
from trainer.engine.peak_memory import peak_host_memory
from trainer.errors import UserError
from trainer.reporting.console import Sample, perplexity
from trainer.reporting.events import Event
from trainer.reporting.metrics_file import StepMeter, count_cells
from trainer.reporting.model_flops import peak_flops, step_flops
from trainer.reporting.reporter import Reporter
from trainer.run_directory.layout import LANES_DOCUMENT, TRAINER_DOCUMENT
from trainer.run_directory.stop_reason import StopReason
from trainer.run_directory.watchdog import Watchdog
from trainer.training.loss_spikes import LossWatch
from trainer.training.rehearsal import in_parts, rehearse
from trainer.training.schedule import learning_rate
from trainer.training.stop_request import StopRequest
from trainer.training.validation import CutShort, Evaluator


@dataclass
class Progress:
    """Where a run stands; `trainer.json` of a checkpoint.

    `score` is that of the evaluation at this very step, if there was one; higher is better. `bad_steps` counts those in
    a row up to here, `lr_scale` multiplies the learning rate, which a rollback may have lowered, and `recent_losses`
    are what the next loss is judged by.
    """

    step: int = 0
    target_tokens: int = 0
    score: float | None = None
    best_score: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    bad_steps: int = 0
    rollbacks: int = 0
    lr_scale: float = 1.0
    recent_losses: list[float] = field(default_factory=list)
    validation_due: bool = False

    @classmethod
    def from_document(cls, document: TrainerDocument, metric: str) -> "Progress":
        """From a checkpoint. Drops scores of another metric than `metric`. Raises UserError for an unknown key."""
        document.require_progress_keys([field.name for field in fields(cls)])
        progress = cls(**document.progress)
        if document.metric == metric:
            return progress
        return replace(progress, score=None, best_score=None, best_step=None, evaluations_since_best=0)

    def judge(self, score: float) -> bool:
        """Takes note of an evaluation's score; whether it is the best so far."""
        best = self.best_score is None or score > self.best_score
        self.score = score
        self.best_score, self.best_step = (score, self.step) if best else (self.best_score, self.best_step)
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        return best


def training_loss(label_smoothing: float, device: torch.device) -> LossFunction:
    """The loss of one micro-batch on `device`. Dropout is seeded from the micro-batch, so that its masks do not depend
    on the rank or the number of ranks, and there is no random state to save."""

    def loss(model: nn.Module, micro_batch: MicroBatch) -> LossSums:
        torch.manual_seed(micro_batch.seed)
        return LossSums(*model(micro_batch.batch.to(device), label_smoothing))

    return loss


@dataclass(frozen=True)
class Collaborators:
    """What the loop works with, ready made.

    `go_back` puts the engine, but not the data, where the newest checkpoint left it: a collective; None without one.
    `num_parts` is in how many parts each micro-batch is computed, `vocab_size` that of the target, `tokenizer` the
    fingerprint of both tokenizers.
    """

    engine: Engine
    data: TrainingData
    evaluator: Evaluator | None
    reporter: Reporter
    stop: StopRequest
    watchdog: Watchdog
    go_back: Callable[[], Progress | None]
    num_parts: int = 1
    vocab_size: int = 0
    tokenizer: str | None = None


class Loop:
    """Trains from `progress` on until the last step, an early stop or a signal."""

    def __init__(self, config: Config, parts: Collaborators, progress: Progress):
        self.config, self.progress = config, progress
        self.engine, self.data, self.reporter = parts.engine, parts.data, parts.reporter
        self._evaluator, self._stop = parts.evaluator, parts.stop
        self._watchdog, self._go_back = parts.watchdog, parts.go_back
        self._num_parts, self._num_splits = parts.num_parts, 0
        self._tokenizer = parts.tokenizer
        self._losses = LossWatch(config.bad_steps.spike_threshold, progress.recent_losses)
        self._loss = training_loss(config.optimizer.label_smoothing, parts.engine.device)
        self._peak_flops = peak_flops(parts.engine.device)
        self._flops = partial(step_flops, config.model, parts.vocab_size)
        self._meter = StepMeter(progress.step, config.run.max_steps, self._peak_flops)
        self._saving = RunSaving(config, parts.engine, parts.reporter, progress.step)

    def run(self) -> StopReason:
        """Trains and saves the last step. Returns why training ended."""
        if self._between_steps() is None:
            self._prepare()
        save_due = False
        while (reason := self._between_steps()) is None:
            if not self._step():
                continue
            improved = self._due(self.config.evaluation.every_steps) and self._evaluate()
            save_due = save_due or improved or self._due(self.config.checkpoint.every_steps)
            # Not amid bad steps: going back to such a checkpoint would bring back what they came from.
            if save_due and not self.progress.bad_steps:
                save_due = False
                self._save()
        self._save(last=True)
        return reason

    def _prepare(self) -> None:
        """Before the first step of this start."""
        with self._meter.outside_training(), self._watchdog.phase("rehearsal"):
            rehearse(self.engine, self.data.largest, self._loss, self.config, self._num_parts)
            self._saving.make_room()
        if self.progress.validation_due:
            self._evaluate()
            self._saving.forget()  # the score belongs into the checkpoint of this step
            self._save()

    def _has_ended(self) -> StopReason | None:
        if self.progress.validation_due:
            return None
        if self.progress.step >= self.config.run.max_steps:
            return StopReason.FINISHED
        if 0 < self.config.evaluation.patience <= self.progress.evaluations_since_best:
            return StopReason.STOPPED_EARLY
        return None

    def _between_steps(self) -> StopReason | None:
        """Goes on with what is being saved; why training ends, the same on every rank."""
        if (ended := self._has_ended()) is not None:
            return ended
        # One collective for everything that the ranks have to agree on between two steps.
        flags = [self._stop.reason is not None, self._saving.working, self._saving.is_old]
        stopping, writing, old = self.engine.sum(flags)
        if not writing:
            self._saving.advance()
        if stopping:
            return StopReason(next(reason for reason in self.engine.gather(self._stop.reason) if reason))
        if old and not self.progress.bad_steps:
            self._save()
        return None

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.run.max_steps

    def _step(self) -> bool:
        """Makes a step; false where the run went back instead of on."""
        with self._meter.waiting_for_data():
            micro_batches = self.data.next_step()
        rate = learning_rate(self.config.optimizer, self.engine.num_updates + 1, self.config.run.max_steps)
        rate *= self.progress.lr_scale
        bound = self._losses.bound()
        result = self.engine.step(in_parts(micro_batches, self._num_parts), self._loss, rate, bound)
        self._watchdog.beat(self.progress.step + 1)
        self.progress.step += 1
        self.progress.score = None
        self.progress.target_tokens += result.num_target_tokens
        real, cells = (sum(counts) for counts in zip(*map(count_cells, micro_batches), strict=True))
        self._meter.add_step(result.num_target_tokens, real, cells)
        if self._peak_flops:
            self._meter.add_flops(sum(self._flops(micro_batch) for micro_batch in micro_batches))
        self.reporter.step(self.progress.step)
        self._note_splits(result.num_splits)
        if self.progress.step == 1 or self._due(self.config.tracking.every_steps):
            self._report(result, rate)
        if not result.skipped:
            self.progress.bad_steps = 0
            self._losses.add(result.loss)
            return True
        self._skipped(result, bound, micro_batches)
        if self.progress.bad_steps < self.config.bad_steps.max_in_a_row:
            return True
        self._roll_back()
        return False

    def _note_splits(self, num_splits: int) -> None:
        """Tells the first, the second, the fourth … step in which memory ran short."""
        self._num_splits += num_splits > 0
        if num_splits and self._num_splits & (self._num_splits - 1) == 0:
            detail = f"{num_splits} micro-batches found no memory as a whole and were computed in two parts"
            self.reporter.event(
                self.progress.step, Event.OUT_OF_MEMORY, f"{detail} ({self._num_splits} such steps so far)"
            )

    def _skipped(self, result: StepResult, bound: float | None, micro_batches: list[MicroBatch]) -> None:
        """Says which data a skipped step came from."""
        self.progress.bad_steps += 1
        found = self.engine.gather([[m.index, m.lane] for m in micro_batches])
        where = ", ".join(f"{index} (lane {lane})" for index, lane in sorted(pair for part in found for pair in part))
        spike = bound is not None and result.loss > bound
        why = f"loss {result.loss:.4g} above {bound:.4g}" if spike else "gradients not finite"
        self.reporter.event(self.progress.step, Event.SKIPPED, f"{why}; micro-batches {where}")

    def _roll_back(self) -> None:
        """To the newest checkpoint, but on with the data: what was read since is passed over."""
        self._saving.wait()
        diverged_at, rollbacks = self.progress.step, self.progress.rollbacks
        progress = self._go_back() if rollbacks < self.config.bad_steps.max_rollbacks else None
        if progress is None:
            self._diverged()
        progress.bad_steps, progress.rollbacks = 0, rollbacks + 1
        progress.lr_scale = self.progress.lr_scale * self.config.bad_steps.lr_factor
        self._losses = LossWatch(self.config.bad_steps.spike_threshold, progress.recent_losses)
        self.progress = progress
        self._saving.forget()
        self._meter = StepMeter(progress.step, self.config.run.max_steps, self._peak_flops)
        detail = f"from step {diverged_at}; its data is passed over, learning rate times {progress.lr_scale:g}"
        self.reporter.rolled_back(progress.step, detail)
        # At once, or a kill before the next save would bring the bad data back.
        self._save()

    def _diverged(self) -> NoReturn:
        rollbacks = "1 rollback" if self.progress.rollbacks == 1 else f"{self.progress.rollbacks} rollbacks"
        raise UserError(
            f"training has diverged: {self.progress.bad_steps} steps in a row up to step {self.progress.step} could "
            f"not be learnt from, after {rollbacks}; lower `optimizer.peak_lr` "
            f"({self.config.optimizer.peak_lr}) and start the same command again: it goes on from the newest "
            "checkpoint that there is."
        )

    def _report(self, result: StepResult, rate: float) -> None:
        own = (self.engine.peak_memory(), peak_host_memory(), self.data.state())
        memory, host_memory, states = zip(*self.engine.gather(own), strict=True)
        measured = self._meter.report(self.progress.step) | {"lr": rate}
        measured |= {"peak_memory": max(memory), "peak_host_memory": max(host_memory)}
        where = {"step": self.progress.step, "target_tokens": self.progress.target_tokens}
        consumed = {"data": merge_states(states)["consumed"]}
        self.reporter.train(where | asdict(result) | {"ppl": perplexity(result.nll)} | measured | consumed)

    def _evaluate(self) -> bool:
        """Validates on all ranks; whether the score is the best so far (never without validation sets)."""
        self.progress.validation_due = False
        if self._evaluator is None:
            return False
        try:
            with self._meter.outside_training(), self._watchdog.phase("validation"):
                results = self._evaluator.evaluate(self.engine, self._stop)
        except CutShort:
            self.progress.validation_due = True
            self.reporter.event(self.progress.step, Event.VALIDATION_CUT_SHORT, "the next start makes it anew")
            return False
        improved = self.progress.judge(_score(results[0], self.config.evaluation.metric))
        for number, result in enumerate(results):
            samples = [Sample(*sample) for sample in result["samples"]]
            result = result | {"samples": [sample._asdict() for sample in samples]}
            record = {"step": self.progress.step, "target_tokens": self.progress.target_tokens} | result
            self.reporter.valid(record, samples, improved and number == 0)
        return improved

    def _save(self, last: bool = False) -> None:
        """Begins to save this step, after the save before it has ended; the `last` one is waited for."""
        with self._meter.outside_training(), self._watchdog.phase("saving"):
            is_best = self.progress.best_step == self.progress.step
            self._saving.save(self.progress.step, self._documents, is_best)
            if last:
                self._saving.finish(self.progress.step)

    def _documents(self) -> dict[str, Any]:
        self.progress.recent_losses = self._losses.losses
        trainer = TrainerDocument(
            progress=asdict(self.progress),
            num_updates=self.engine.num_updates,
            metric=self.config.evaluation.metric,
            world_size=self.engine.world_size,
            engine=self.config.engine.kind,
            tokenizer=self._tokenizer,
        )
        lanes = merge_states(self.engine.gather(self.data.state()))
        return {TRAINER_DOCUMENT: trainer.to_json(), LANES_DOCUMENT: lanes}


def _score(result: dict[str, Any], metric: str) -> float:
    """The value that validation is judged by; higher is better."""
    return -result["nll"] if metric == "nll" else result[metric]
