"""`metrics.jsonl`, the record of a run: one JSON object a line; and the meter of a run's speed.

Kinds of lines: `train` (one step), `valid` (one validation set at one step), `event` (something that happened to the
run, such as having been resumed).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.packing import MicroBatch
from trainer.engine.base import Engine
from trainer.errors import UserError


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of the file in order; a line that a kill left torn is left out."""
    return [record for _, record in _records(path.read_bytes())]


class MetricsFile:
    """Appends records; what has been written survives the death of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: each line is one write to the kernel, so a killed process loses no finished line.
        self._file = path.open("ab", buffering=0)

    @classmethod
    def open(cls, path: Path, resume_step: int) -> "MetricsFile":
        """For a run that goes on from `resume_step` (0: from nothing).

        The interrupted run has written lines beyond its last checkpoint. The resumed run makes those steps again, so
        they are taken out first; events stay.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _drop_after(path, resume_step)
        return cls(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line; NaN and infinities, which JSON does not have, become null.

        Raises `UserError` when the disk does not take the line; the file then holds what it held before.
        """
        line = (json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
        except OSError as error:
            raise UserError(self._refusal(str(error.strerror))) from error
        if written != len(line):
            os.ftruncate(self._file.fileno(), size)
            raise UserError(self._refusal("no space left"))

    def close(self) -> None:
        self._file.close()

    def _refusal(self, reason: str) -> str:
        return (
            f"{self.path}: the metrics cannot be written ({reason}); make room, then start the command again to go on."
        )


def _records(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line that is a JSON object, as bytes with its newline and decoded."""
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(record, dict):
            yield line, record


def _drop_after(path: Path, step: int) -> None:
    content = path.read_bytes()
    kept = b"".join(
        line for line, record in _records(content) if record.get("kind") == "event" or record["step"] <= step
    )
    if kept == content:
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class StepMeter:
    """Speed of training since the last report. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = self._mark = clock()
        self._all_steps = 0
        self._reset()

    def add(self, num_target_tokens: int, waited: float, micro_batches: Sequence[MicroBatch]) -> None:
        """Counts the optimizer step that just ended.

        `num_target_tokens` is over all ranks; the seconds waited for data and the micro-batches are this rank's.
        """
        now = self._clock()
        self._seconds += now - self._mark
        self._mark = now
        self._steps += 1
        self._all_steps += 1
        self._target_tokens += num_target_tokens
        self._waited += waited
        for micro_batch in micro_batches:
            real, cells = count_cells(micro_batch)
            self._real_tokens += real
            self._cells += cells

    def restart(self) -> None:
        """Leaves the time since the last step (a validation, a checkpoint) out of the speed of training."""
        self._mark = self._clock()

    def take(self, engine: Engine, steps_left: int) -> dict[str, float]:
        """The numbers since the last call, over all ranks and the same on each (a collective), for a `train` record.

        `tokens_per_second` counts real target tokens; `padding_share` is of all computed positions of both sides,
        `data_wait_share` of the time; `peak_memory` is the largest of any rank, in bytes. The time to the end counts
        validations and checkpoints as they have come so far.
        """
        real_tokens, cells, waited = engine.sum([self._real_tokens, self._cells, self._waited])
        seconds = max(self._seconds, 1e-9)
        numbers = {
            "tokens_per_second": self._target_tokens / seconds,
            "seconds_per_step": seconds / self._steps,
            "padding_share": 1 - real_tokens / cells,
            "data_wait_share": waited / engine.world_size / seconds,
            "peak_memory": max(engine.gather(engine.peak_memory())),
            "eta_seconds": (self._clock() - self._start) / self._all_steps * steps_left,
        }
        self._reset()
        return numbers

    def _reset(self) -> None:
        self._seconds = self._waited = 0.0
        self._steps = self._target_tokens = self._real_tokens = self._cells = 0


def count_cells(micro_batch: MicroBatch) -> tuple[int, int]:
    """Real tokens and all computed positions of a micro-batch, source and target together; filler is not real."""
    batch = micro_batch.batch
    # The real sentences come first, the filler after them.
    num_source_tokens = int(batch.source_cu[micro_batch.num_pairs])
    return num_source_tokens + batch.num_target_tokens, batch.source_S.numel() + batch.target_out_T.numel()
