"""Saving in the background, in two phases: every rank writes its part of the state, then rank 0 publishes the whole.

    begin      main thread   copies the state to host memory; a thread of each rank starts to write it
    advance    collective    all threads have written: rank 0's thread starts to publish
    advance    collective    rank 0 has published: returns the checkpoint

Threads do the slow work (files, hashes, syncing) and never communicate with other ranks. If any rank could not write,
the save is removed and fails on every rank.
"""

import shutil
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from safetensors import SafetensorError

from trainer.checkpoints.directory import describe, link_state, publish, temporary_of
from trainer.checkpoints.retention import apply_retention
from trainer.checkpoints.state_files import HostCopy
from trainer.configuration.sections import CheckpointConfig
from trainer.engine.base import Engine
from trainer.errors import error_line
from trainer.files import sync
from trainer.run_directory.layout import CHECKPOINT_STATE, CHECKPOINTS


class SaveFailed(Exception):
    """A checkpoint could not be written on some rank, and what was written has been removed. Raised on every rank."""


@dataclass(frozen=True)
class Saved:
    """A published checkpoint. `complaints` name the older ones that could not be removed, a sentence each."""

    step: int
    path: Path
    complaints: list[str]


class Published(NamedTuple):
    """What rank 0 sends to the others: the checkpoint's folder name, and the complaints of `Saved`."""

    name: str
    complaints: list[str]


@dataclass(frozen=True)
class _Writing:
    """Phase 1. The task of each rank returns [size, sha256] by name of the files that it wrote."""

    step: int
    documents: Mapping[str, Any]
    task: "_Task"


@dataclass(frozen=True)
class _Publishing:
    """Phase 2. The task of rank 0 returns `Published`, that of the others None."""

    step: int
    task: "_Task"


class Saver:
    """Saves one checkpoint at a time. `begin` and `advance` are collectives; `busy` is the same on every rank."""

    def __init__(self, run_directory: Path, engine: Engine, retention: CheckpointConfig, metric: str) -> None:
        self._run_directory, self._engine = run_directory, engine
        self._retention, self._metric = retention, metric
        self._copy = HostCopy()
        self._phase: _Writing | _Publishing | None = None

    @property
    def busy(self) -> bool:
        """Whether a save has begun that is neither published nor failed."""
        return self._phase is not None

    @property
    def working(self) -> bool:
        """Whether this rank's thread is at work. `advance` does not wait if this is so on no rank."""
        return self._phase is not None and self._phase.task.is_alive()

    def make_room(self) -> None:
        """Allocates the memory of the copy before the first save needs it. Not a collective."""
        with suppress(RuntimeError):  # the first save reports it
            self._copy.make_room(list(self._engine.fragments()))

    def begin(self, step: int, documents: Mapping[str, Any]) -> None:
        """Copies the state as it is now and starts to write it.

        `documents` are the JSON files next to the state, by name, the same on every rank.
        """
        assert not self.busy, "one save at a time"
        try:
            self._copy.take(self._engine.fragments())
        except RuntimeError as error:  # no memory on this rank, which the others learn in `advance`
            work: Callable[[], Any] = partial(_refuse, str(error))
        else:
            work = partial(self._write, step)
        self._phase = _Writing(step, documents, _Task(work))

    def begin_update(self, step: int, documents: Mapping[str, Any]) -> None:
        """Starts to replace the JSON files of the published checkpoint after `step`; its state stays as it is."""
        assert not self.busy, "one save at a time"
        update = partial(self._update, step, documents)
        self._phase = _Publishing(step, _Task(update if self._engine.rank == 0 else _do_nothing))

    def advance(self) -> Saved | None:
        """Ends a phase: waits for it on all ranks, then starts the next one and returns None, or returns the result.

        Raises SaveFailed on every rank if any rank's disk refused. Older checkpoints are not affected.
        """
        assert self._phase is not None, "nothing is being saved"
        phase, self._phase = self._phase, None
        results = self._results(phase)
        if isinstance(phase, _Writing):
            files = {name: entry for of_rank in results for name, entry in of_rank.items()}
            publish_all = partial(self._publish, phase.step, phase.documents, files)
            self._phase = _Publishing(phase.step, _Task(publish_all if self._engine.rank == 0 else _do_nothing))
            return None
        published: Published = results[0]
        return Saved(phase.step, self._run_directory / CHECKPOINTS / published.name, published.complaints)

    def finish(self) -> Saved:
        """Waits until the save under way is published. Raises SaveFailed."""
        while (saved := self.advance()) is None:
            pass
        return saved

    def _results(self, phase: _Writing | _Publishing) -> list[Any]:
        """What each rank's task returned. Raises SaveFailed if one of them failed."""
        phase.task.join()
        tasks = self._engine.gather((phase.task.result, phase.task.error))
        errors = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(tasks) if error is not None]
        if errors:
            if self._engine.rank == 0:
                shutil.rmtree(temporary_of(self._run_directory, phase.step), ignore_errors=True)
            raise SaveFailed("; ".join(errors))
        return [result for result, _ in tasks]

    def _write(self, step: int) -> dict[str, list[Any]]:
        folder = temporary_of(self._run_directory, step)
        # Every rank makes the folder: waiting for rank 0 to make it would need one more agreement.
        (folder / CHECKPOINT_STATE).mkdir(parents=True, exist_ok=True)
        path = self._copy.write(folder, self._engine.rank, self._engine.world_size)
        return {f"{CHECKPOINT_STATE}/{path.name}": describe(sync(path))}

    def _publish(self, step: int, documents: Mapping[str, Any], files: Mapping[str, list[Any]]) -> Published:
        path = publish(self._run_directory, step, documents, files)
        return Published(path.name, apply_retention(self._run_directory, self._retention, self._metric))

    def _update(self, step: int, documents: Mapping[str, Any]) -> Published:
        return self._publish(step, documents, link_state(self._run_directory, step))


class _Task(threading.Thread):
    """File work in a daemon thread, so that a process can end at any time. `error` is set if the disk refused."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self.result: Any = None
        self.error: str | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except (OSError, SafetensorError) as error:
            self.error = error_line(error, with_type=False)
        except Exception as error:  # the other ranks must learn of any failure instead of waiting
            traceback.print_exc()
            self.error = error_line(error)


def _refuse(reason: str) -> NoReturn:
    raise OSError(reason)


def _do_nothing() -> None:
    pass
