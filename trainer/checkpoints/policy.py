"""When a run saves, and what happens if a save fails. `trainer.checkpoints.saver` does the saving."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from trainer.checkpoints.saver import Saved, SaveFailed, Saver
from trainer.configuration.sections import Config
from trainer.engine.base import Engine
from trainer.errors import UserError
from trainer.reporting.events import Event
from trainer.reporting.reporter import Reporter


class RunSaving:
    """The saves of one run, reported as events. `save`, `advance`, `wait` and `finish` are collectives.

    A save that fails is tried again when the next one is due. After `checkpoint.max_failed_saves` failures in a row,
    these methods raise UserError.
    """

    def __init__(self, config: Config, engine: Engine, reporter: Reporter, saved_step: int) -> None:
        self._config, self._engine, self._reporter = config.checkpoint, engine, reporter
        self._run_directory = Path(config.run.directory)
        self._saver = Saver(self._run_directory, engine, config.checkpoint, config.evaluation.metric)
        self._saved_step = self._saving_step = saved_step
        self._saving_best = self._updating = False
        self._last_save = time.monotonic()
        self._num_failed, self._error = 0, ""

    @property
    def working(self) -> bool:
        """Whether this rank is writing. `advance` does not wait if this is so on no rank."""
        return self._saver.working

    @property
    def is_old(self) -> bool:
        """Whether the last save began more than `every_minutes` ago, by the clock of rank 0; false on other ranks."""
        minutes = self._config.every_minutes
        return minutes is not None and self._engine.rank == 0 and time.monotonic() - self._last_save > 60 * minutes

    def make_room(self) -> None:
        """Allocates the memory that saves need. Not a collective."""
        self._saver.make_room()

    def save(self, step: int, documents: Callable[[], Mapping[str, Any]], is_best: bool = False) -> None:
        """Begins to save `step`, after the save before it has ended. Does nothing if this step is saved or being saved.

        `documents` returns the JSON files next to the state; `is_best`: no step so far has a better score.
        """
        if self._saving_step != step:
            self.wait()
        if not self._saver.busy and self._saved_step != step:
            self._saving_step, self._last_save = step, time.monotonic()
            self._saving_best, self._updating = is_best and self._config.keep_best > 0, False
            self._saver.begin(step, documents())

    def has_saved(self, step: int) -> bool:
        """Whether the newest checkpoint is published and is that of `step`, as the run stands."""
        return self._saved_step == step > 0

    def update(self, step: int, documents: Callable[[], Mapping[str, Any]], is_best: bool) -> None:
        """Begins to replace the JSON files of the checkpoint of `step`, which must be published, after a validation."""
        assert self.has_saved(step), "only a published checkpoint can be updated"
        self._saving_best, self._updating = is_best and self._config.keep_best > 0, True
        self._saver.begin_update(step, documents())

    def advance(self) -> None:
        """Advances the save under way, if there is one."""
        if self._saver.busy:
            self._report(self._saver.advance)

    def wait(self) -> None:
        """Returns when nothing is being saved any more."""
        if self._saver.busy:
            self._report(self._saver.finish)

    def finish(self, step: int) -> None:
        """Returns when the checkpoint of `step` is published. Raises UserError if it could not be."""
        self.wait()
        if self._saved_step != step:
            self._give_up()

    def forget(self) -> None:
        """Invalidates the last save, so that the same step is saved again."""
        self._saved_step = -1

    def _report(self, advance: Callable[[], Saved | None]) -> None:
        try:
            saved = advance()
        except SaveFailed as error:
            self._failed(str(error))
            return
        if saved is None:
            return
        self._saved_step, self._num_failed = saved.step, 0
        if self._updating:
            self._reporter.updated(saved.step, saved.path, self._saving_best)
        else:
            self._reporter.saved(saved.step, saved.path, self._saving_best)
        for complaint in saved.complaints:
            self._reporter.event(saved.step, Event.OLD_CHECKPOINT_NOT_REMOVED, complaint)

    def _failed(self, error: str) -> None:
        self._num_failed, self._error = self._num_failed + 1, error
        self._reporter.event(self._saving_step, Event.SAVE_FAILED, error)
        if self._num_failed >= self._config.max_failed_saves:
            self._give_up()

    def _give_up(self) -> NoReturn:
        raise UserError(
            f"the checkpoint of step {self._saving_step} could not be written to {self._run_directory} "
            f"({self._error}): correct that, for example by freeing some space, and give the same command again, which "
            "resumes from the newest checkpoint."
        )
