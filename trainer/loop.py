"""The training loop: steps, and between two steps what is due (report, validation, checkpoint, stop).

The loop knows no device, no process group and no library: it is handed ready collaborators by `trainer.run`. Every
decision that leads into a collective is taken from values that are the same on all ranks.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoint
from trainer.config import Config
from trainer.console import Sample, perplexity
from trainer.data.feed import TrainingData, merge_states
from trainer.data.packing import MicroBatch
from trainer.engine.base import Engine, LossFunction, LossSums, StepResult
from trainer.errors import UserError
from trainer.evaluation import Evaluator
from trainer.metrics import StepMeter, count_cells
from trainer.reporting import Reporter
from trainer.schedule import learning_rate
from trainer.signals import StopRequest

FINISHED, EARLY_STOP = "finished", "stopped early"
MAX_SKIPPED_STEPS = 20
MAX_FAILED_SAVES = 3


@dataclass
class Progress:
    """Where a run stands; `trainer.json` of a checkpoint.

    `score` is that of the evaluation at this very step, if there was one; higher is better.
    """

    step: int = 0
    target_tokens: int = 0
    score: float | None = None
    best_score: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0

    @classmethod
    def from_document(cls, document: dict[str, Any], metric: str) -> "Progress":
        """From a `trainer.json`, which says more than this. Scores of another metric are no longer compared with."""
        progress = cls(**{field.name: document[field.name] for field in fields(cls)})
        if document["metric"] == metric:
            return progress
        return cls(step=progress.step, target_tokens=progress.target_tokens)

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
    """What the loop works with, ready made."""

    engine: Engine
    data: TrainingData
    evaluator: Evaluator | None
    reporter: Reporter
    stop: StopRequest


class Loop:
    """Trains from `progress` on until the last step, an early stop or a signal."""

    def __init__(self, config: Config, parts: Collaborators, progress: Progress):
        self.config, self.progress = config, progress
        self.engine, self.data, self.reporter = parts.engine, parts.data, parts.reporter
        self._evaluator, self._stop = parts.evaluator, parts.stop
        self._loss = training_loss(config.optimizer.label_smoothing, parts.engine.device)
        self._meter = StepMeter(progress.step, config.run.max_steps)
        self._skipped = self._failed_saves = 0
        self._saved_step = progress.step
        self._run_directory = Path(config.run.directory)

    def run(self) -> str:
        """Why training ended: `FINISHED`, `EARLY_STOP` or the name of a signal. The last step is saved."""
        while (verdict := self._reason_to_end()) is None:
            self._step()
            improved = self._due(self.config.evaluation.every_steps) and self._evaluate()
            if improved or self._due(self.config.checkpoint.every_steps):
                self._save()
        self._save(last=True)
        return verdict

    def _reason_to_end(self) -> str | None:
        """The same on every rank: from what all of them know, or by asking all of them."""
        if self.progress.step >= self.config.run.max_steps:
            return FINISHED
        if 0 < self.config.evaluation.patience <= self.progress.evaluations_since_best:
            return EARLY_STOP
        if self.engine.any(self._stop.reason is not None):
            return next(reason for reason in self.engine.gather(self._stop.reason) if reason)
        return None

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.run.max_steps

    def _step(self) -> None:
        with self._meter.waiting_for_data():
            micro_batches = self.data.next_step()
        rate = learning_rate(self.config.optimizer, self.engine.num_updates + 1, self.config.run.max_steps)
        result = self.engine.step(micro_batches, self._loss, rate)
        self.progress.step += 1
        self.progress.score = None
        self.progress.target_tokens += result.num_target_tokens
        real, cells = (sum(counts) for counts in zip(*map(count_cells, micro_batches), strict=True))
        self._meter.add_step(result.num_target_tokens, real, cells)
        self._watch(result, micro_batches)
        self.reporter.step(self.progress.step)
        if self.progress.step == 1 or self._due(self.config.tracking.every_steps):
            self._report(result, rate)

    def _watch(self, result: StepResult, micro_batches: list[MicroBatch]) -> None:
        """Says which data a skipped step came from and ends a run that has come to skip every step."""
        self._skipped = self._skipped + 1 if result.skipped else 0
        if not result.skipped:
            return
        indices = sorted(index for part in self.engine.gather([m.index for m in micro_batches]) for index in part)
        self.reporter.event(self.progress.step, "skipped", f"gradients not finite; micro-batches {indices}")
        if self._skipped >= MAX_SKIPPED_STEPS:
            raise UserError(
                f"training has diverged: {self._skipped} steps in a row up to step {self.progress.step} had gradients "
                f"that are not finite; lower `optimizer.peak_lr` ({self.config.optimizer.peak_lr}) and start the same "
                f"command again: it goes on from the newest checkpoint."
            )

    def _report(self, result: StepResult, rate: float) -> None:
        memory, states = zip(*self.engine.gather((self.engine.peak_memory(), self.data.state())), strict=True)
        measured = self._meter.report(self.progress.step) | {"lr": rate, "peak_memory": max(memory)}
        where = {"step": self.progress.step, "target_tokens": self.progress.target_tokens}
        consumed = {"data": merge_states(states)["consumed"]}
        self.reporter.train(where | asdict(result) | {"ppl": perplexity(result.nll)} | measured | consumed)

    def _evaluate(self) -> bool:
        """Validates on all ranks; whether the score is the best so far (never without validation sets)."""
        if self._evaluator is None:
            return False
        with self._meter.outside_training():
            results = self._evaluator.evaluate(self.engine)
        improved = self.progress.judge(_score(results[0], self.config.evaluation.metric))
        for number, result in enumerate(results):
            samples = [Sample(*sample) for sample in result.pop("samples")]
            record = {"step": self.progress.step, "target_tokens": self.progress.target_tokens} | result
            self.reporter.valid(record, samples, improved and number == 0)
        return improved

    def _save(self, last: bool = False) -> None:
        if self._saved_step == self.progress.step:
            return
        try:
            with self._meter.outside_training():
                path = checkpoint.save(self._run_directory, self.progress.step, self.engine, self._documents())
        except checkpoint.SaveFailed as error:
            self._save_failed(error, last)
            return
        self._saved_step, self._failed_saves = self.progress.step, 0
        self.reporter.event(self.progress.step, "saved", str(path))
        if self.engine.rank == 0:
            self._remove_old()

    def _remove_old(self) -> None:
        try:
            checkpoint.apply_retention(self._run_directory, self.config.checkpoint, self.config.evaluation.metric)
        except OSError as error:  # too many checkpoints are no reason to stop
            self.reporter.event(self.progress.step, "old checkpoint not removed", str(error))

    def _documents(self) -> dict[str, Any]:
        trainer = asdict(self.progress) | {"num_updates": self.engine.num_updates}
        trainer |= {"metric": self.config.evaluation.metric}
        trainer |= {"world_size": self.engine.world_size, "engine": self.config.engine.kind}
        return {"trainer.json": trainer, "lanes.json": merge_states(self.engine.gather(self.data.state()))}

    def _save_failed(self, error: checkpoint.SaveFailed, last: bool) -> None:
        """Training outlives a failing disk for a while: the save is tried again at the next occasion."""
        self._failed_saves += 1
        self.reporter.event(self.progress.step, "save failed", str(error))
        if last or self._failed_saves >= MAX_FAILED_SAVES:
            raise UserError(
                f"the checkpoint of step {self.progress.step} could not be written to {self._run_directory} ({error}); "
                f"free some space and start the same command again: it goes on from the newest checkpoint."
            )


def _score(result: dict[str, Any], metric: str) -> float:
    """The value that validation is judged by; higher is better."""
    return -result["nll"] if metric == "nll" else result[metric]
