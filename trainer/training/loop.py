"""The training loop: steps, and between two steps what is due (report, validation, checkpoint, stop).

The loop knows no device, no process group and no library: `trainer.run` gives it ready collaborators. Every decision
that leads to a collective is made from values that are the same on all ranks.
"""

from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from trainer.checkpoints.policy import RunSaving
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration.sections import Config
from trainer.data.feeding.feed_state import merge_states
from trainer.data.feeding.packing import MicroBatch
from trainer.engine.base import StepResult
from trainer.engine.peak_memory import peak_host_memory
from trainer.errors import UserError
from trainer.reporting.console import perplexity
from trainer.reporting.events import Event
from trainer.reporting.model_flops import peak_flops, step_flops
from trainer.reporting.step_meter import StepMeter, count_cells
from trainer.run_directory.layout import LANES_DOCUMENT, TRAINER_DOCUMENT
from trainer.run_directory.stop_reason import StopReason
from trainer.training.collaborators import Collaborators
from trainer.training.loss_spikes import LossSpikes
from trainer.training.micro_batch_parts import in_parts
from trainer.training.objective import training_loss
from trainer.training.progress import Progress
from trainer.training.rehearsal import rehearse
from trainer.training.schedule import learning_rate
from trainer.training.validation import CutShort


class Loop:
    """Trains from `progress` until the last step, an early stop or a signal."""

    def __init__(self, config: Config, collaborators: Collaborators, progress: Progress):
        self.config, self.progress = config, progress
        self.engine, self.data, self.reporter = collaborators.engine, collaborators.data, collaborators.reporter
        self._validator, self._stop = collaborators.validator, collaborators.stop
        self._watchdog, self._go_back = collaborators.watchdog, collaborators.go_back
        self._num_parts, self._num_splits = collaborators.num_parts, 0
        self._tokenizer = collaborators.tokenizer
        self._losses = LossSpikes(config.bad_steps.spike_threshold, progress.recent_losses)
        self._loss = training_loss(config.optimizer.label_smoothing, self.engine.device)
        self._peak_flops = peak_flops(self.engine.device)
        self._flops = partial(step_flops, config.model, collaborators.vocab_size)
        self._meter = StepMeter(progress.step, config.run.max_steps, self._peak_flops)
        self._saving = RunSaving(config, self.engine, self.reporter, progress.step)
        self._save_due = False
        if self._validator is None:
            self.progress.validation_due = False  # the sets were removed from the configuration since

    def run(self) -> StopReason:
        """Trains and saves the last step. Returns why training ended, the same on every rank."""
        if (self._has_ended() or self._agree_to_stop()) is None:
            self._rehearse()
            if self.progress.validation_due:
                self._validate()
        while (reason := self._has_ended() or self._agree_to_stop()) is None:
            self._step()
            if self.progress.bad_steps >= self.config.bad_steps.max_in_a_row:
                self._roll_back()
            else:
                self._validate_and_save()
        self._save(last=True)
        return reason

    def _rehearse(self) -> None:
        """Before the first step of this start: allocates the memory that a run takes at most."""
        with self._meter.outside_training(), self._watchdog.phase("rehearsal"):
            if self._validator:
                for notice in self._validator.notices:
                    self.reporter.event(self.progress.step, Event.VALIDATION_PAIR_CUT, notice)
                if self._validator.score_warning:
                    self.reporter.event(self.progress.step, Event.SCORE_WARNING, self._validator.score_warning)
                self._validator.make_room(self.engine.device)
            rehearse(self.engine, self.data.largest, self._loss, self.config, self._num_parts)
            self._saving.make_room()
            if self._validator:
                self._validator.rehearse(self.engine)

    def _has_ended(self) -> StopReason | None:
        """Whether nothing is left to do; from values that are the same on every rank."""
        if self.progress.validation_due:
            return None
        if self.progress.step >= self.config.run.max_steps:
            return StopReason.FINISHED
        if 0 < self.config.evaluation.patience <= self.progress.evaluations_since_best:
            return StopReason.STOPPED_EARLY
        return None

    def _agree_to_stop(self) -> StopReason | None:
        """Returns the signal that a rank received, or None. Also publishes what all ranks have written."""
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

    def _validate_and_save(self) -> None:
        """After a step, if they are due. A due checkpoint is published before the validation, which may fail."""
        self._save_due = self._save_due or self._due(self.config.checkpoint.every_steps)
        self.progress.validation_due = self._validator is not None and self._due(self.config.evaluation.every_steps)
        self._save_if_due()
        if self.progress.validation_due:
            with self._meter.outside_training(), self._watchdog.phase("saving"):
                self._saving.wait()
            self._validate()

    def _save_if_due(self) -> None:
        # Not amid bad steps: going back to such a checkpoint would bring back what caused them.
        if self._save_due and not self.progress.bad_steps:
            self._save_due = False
            self._save()

    def _step(self) -> None:
        """Makes an optimizer step, which may be skipped, and reports it if that is due."""
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
        self._measure(result, micro_batches)
        self.reporter.step(self.progress.step)
        self._note_splits(result.num_splits)
        if self.progress.step == 1 or self._due(self.config.tracking.every_steps):
            self._report(result, rate)
        if result.skipped:
            self._skipped(result, bound, micro_batches)
        else:
            self.progress.bad_steps = 0
            self._losses.add(result.loss)

    def _measure(self, result: StepResult, micro_batches: list[MicroBatch]) -> None:
        real, cells = (sum(counts) for counts in zip(*map(count_cells, micro_batches), strict=True))
        self._meter.add_step(result.num_target_tokens, real, cells)
        if self._peak_flops:
            self._meter.add_flops(sum(self._flops(micro_batch) for micro_batch in micro_batches))

    def _note_splits(self, num_splits: int) -> None:
        """Reports the first, the second, the fourth … step in which memory ran out."""
        self._num_splits += num_splits > 0
        if num_splits and self._num_splits & (self._num_splits - 1) == 0:
            detail = f"{num_splits} micro-batches found no memory as a whole and were computed in two parts"
            self.reporter.event(
                self.progress.step, Event.OUT_OF_MEMORY, f"{detail} ({self._num_splits} such steps so far)"
            )

    def _skipped(self, result: StepResult, bound: float | None, micro_batches: list[MicroBatch]) -> None:
        """Counts a skipped step and reports which data it came from."""
        self.progress.bad_steps += 1
        found = self.engine.gather([[m.index, m.lane] for m in micro_batches])
        where = ", ".join(f"{index} (lane {lane})" for index, lane in sorted(pair for part in found for pair in part))
        spike = bound is not None and result.loss > bound
        why = f"loss {result.loss:.4g} above {bound:.4g}" if spike else "gradients not finite"
        self.reporter.event(self.progress.step, Event.SKIPPED, f"{why}; micro-batches {where}")

    def _roll_back(self) -> None:
        """Restores the newest checkpoint, but not the position in the data: what was read since is left out."""
        self._saving.wait()
        diverged_at, rollbacks = self.progress.step, self.progress.rollbacks
        progress = self._go_back() if rollbacks < self.config.bad_steps.max_rollbacks else None
        if progress is None:
            self._diverged()
        progress.bad_steps, progress.rollbacks = 0, rollbacks + 1
        progress.lr_scale = self.progress.lr_scale * self.config.bad_steps.lr_factor
        self._losses = LossSpikes(self.config.bad_steps.spike_threshold, progress.recent_losses)
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
            f"not be learnt from, after {rollbacks}; lower `optimizer.peak_lr` ({self.config.optimizer.peak_lr}) and "
            "give the same command again, which resumes from the newest checkpoint, if there is one."
        )

    def _report(self, result: StepResult, rate: float) -> None:
        own = (self.engine.peak_memory(), peak_host_memory(), self.data.state())
        memory, host_memory, states = zip(*self.engine.gather(own), strict=True)
        measured = self._meter.report(self.progress.step) | {"lr": rate}
        measured |= {"peak_memory": max(memory), "peak_host_memory": max(host_memory)}
        where = {"step": self.progress.step, "target_tokens": self.progress.target_tokens}
        consumed = {"data": merge_states(states)["consumed"]}
        self.reporter.train(where | asdict(result) | {"ppl": perplexity(result.nll)} | measured | consumed)

    def _validate(self) -> None:
        """Validates on all ranks, judges the score, and has it saved if this step is saved or is the best."""
        assert self._validator is not None, "a validation is due only if there are validation sets"
        try:
            with self._meter.outside_training(), self._watchdog.phase("validation"):
                results = self._validator.validate(self.engine, self._stop)
        except CutShort:
            self.reporter.event(self.progress.step, Event.VALIDATION_CUT_SHORT, "the next start repeats it")
            return
        improved = self.progress.judge(results[0].score(self.config.evaluation.metric))
        where = {"step": self.progress.step, "target_tokens": self.progress.target_tokens}
        for number, result in enumerate(results):
            self.reporter.valid(where | result.record(), result.samples, improved and number == 0)
        if self._saving.has_saved(self.progress.step):
            self._saving.update(self.progress.step, self._documents, improved)
        else:
            self._save_due = self._save_due or improved
            self._save_if_due()

    def _save(self, last: bool = False) -> None:
        """Begins to save this step, after the save before it has ended. Waits until the `last` one is published."""
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
            learning_rate=self._last_rate(),
            metric=self.config.evaluation.metric,
            world_size=self.engine.world_size,
            engine=self.config.engine.kind,
            tokenizer=self._tokenizer,
        )
        lanes = merge_states(self.engine.gather(self.data.state()))
        return {TRAINER_DOCUMENT: trainer.to_json(), LANES_DOCUMENT: lanes}

    def _last_rate(self) -> float | None:
        """The learning rate of the last update, None before the first."""
        if self.engine.num_updates == 0:
            return None
        rate = learning_rate(self.config.optimizer, self.engine.num_updates, self.config.run.max_steps)
        return rate * self.progress.lr_scale
