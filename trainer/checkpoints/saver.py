"""Saving in the background: copy the state to host memory, train on, write, and publish when all ranks have written.

Threads do the slow work (files, hashes, syncing) and never talk to other ranks. The ranks agree on the main thread,
between two steps: a save that any rank could not write is removed, and no rank believes in it.
"""

import shutil
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.state_files import HostCopy
from trainer.configuration.sections import CheckpointConfig
from trainer.engine.base import Engine
from trainer.files import sync
from trainer.run_directory.layout import CHECKPOINT_STATE, CHECKPOINTS, TRAINER_DOCUMENT


class SaveFailed(Exception):
    """A checkpoint could not be written on some rank; what was written has been removed. Raised on every rank."""


@dataclass(frozen=True)
class Saved:
    """A published checkpoint; `best` is that of the best score so far which retention keeps, `complaints` tell which
    older ones could not be removed."""

    step: int
    path: Path
    complaints: list[str]
    best: bool = False


class Saver:
    """At most one save at a time. `begin` and `advance` are collectives; `busy` is the same on every rank."""

    def __init__(self, run_directory: Path, engine: Engine, retention: CheckpointConfig, metric: str) -> None:
        self._run_directory, self._engine = run_directory, engine
        self._retention, self._metric = retention, metric
        self._copy = HostCopy()
        self._task: _Task | None = None
        self._step = -1
        self._documents: Mapping[str, Any] = {}
        self._publishing = False

    @property
    def busy(self) -> bool:
        """Whether a save has begun and is neither published nor failed."""
        return self._task is not None

    @property
    def working(self) -> bool:
        """Whether this rank's thread is at work; `advance` only when that is so on no rank."""
        return self._task is not None and self._task.is_alive()

    def make_room(self) -> None:
        """Takes the memory of the copy before the first save needs it. Not a collective."""
        with suppress(RuntimeError):  # too little of it: the first save tells
            self._copy.make_room(list(self._engine.fragments()))

    def begin(self, step: int, documents: Mapping[str, Any]) -> None:
        """Copies the state of this moment and starts to write it.

        `documents` are JSON files beside the state (`trainer.json`, `lanes.json`), the same on every rank.
        """
        assert not self.busy, "one save at a time"
        self._step, self._documents, self._publishing = step, documents, False
        try:
            self._copy.take(self._engine.fragments())
        except RuntimeError as error:  # no memory for the copy on this rank, which the others hear of in `advance`
            self._task = _Task(partial(_refuse, str(error)))
        else:
            self._task = _Task(self._write)

    def advance(self) -> Saved | None:
        """Goes on once all ranks have written: first to publishing, on rank 0, and then to the end.

        Raises SaveFailed on every rank where any rank's disk refused; the checkpoints published before stay as they
        are.
        """
        assert self._task is not None, "nothing is being saved"
        self._task.join()
        outcomes = self._engine.gather({"value": self._task.value, "error": self._task.error})
        self._task = None
        errors = [f"rank {rank}: {o['error']}" for rank, o in enumerate(outcomes) if o["error"]]
        if errors:
            if self._engine.rank == 0:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise SaveFailed("; ".join(errors))
        values = [outcome["value"] for outcome in outcomes]
        if self._publishing:
            best = self._retention.keep_best > 0 and self._documents[TRAINER_DOCUMENT].get("best_step") == self._step
            return Saved(self._step, self._run_directory / CHECKPOINTS / values[0][0], values[0][1], best)
        self._publishing = True
        files = {name: entry for part in values for name, entry in part.items()}
        self._task = _Task((lambda: self._publish(files)) if self._engine.rank == 0 else lambda: None)
        return None

    def finish(self) -> Saved:
        """Waits until the save under way is published. Raises SaveFailed."""
        while (saved := self.advance()) is None:
            pass
        return saved

    @property
    def _temporary(self) -> Path:
        return checkpoint.temporary_of(self._run_directory, self._step)

    def _write(self) -> dict[str, list[Any]]:
        # Every rank makes the folder: waiting for rank 0 to make it would be one more thing to agree on.
        (self._temporary / CHECKPOINT_STATE).mkdir(parents=True, exist_ok=True)
        path = self._copy.write(self._temporary, self._engine.rank, self._engine.world_size)
        return {f"{CHECKPOINT_STATE}/{path.name}": checkpoint.describe(sync(path))}

    def _publish(self, files: Mapping[str, list[Any]]) -> list[Any]:
        """The new checkpoint's name, and what retention complains of: too many checkpoints are no reason to stop."""
        path = checkpoint.publish(self._run_directory, self._step, self._documents, files)
        return [path.name, checkpoint.apply_retention(self._run_directory, self._retention, self._metric)]


class _Task(threading.Thread):
    """One piece of file work; `error` where the disk refused. A daemon: a process that is told to stop at once does."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self.value: Any = None
        self.error: str | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._work()
        except (OSError, SafetensorError) as error:
            self.error = str(error)
        except Exception as error:  # whatever it is, the other ranks must hear of it and not wait
            traceback.print_exc()
            self.error = repr(error)


def _refuse(reason: str) -> NoReturn:
    raise OSError(reason)
