"""`metrics.jsonl`, the record of a run: one JSON object a line; and the meter of a run's speed.

Kinds of lines: `train` (one step), `valid` (one validation set at one step), `event` (something that happened to the
run, such as having been resumed).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.feeding.packing import MicroBatch
from trainer.errors import UserError
from trainer.files import json_lines, write_atomically


def read_metrics(path: Path, num_bytes: int = -1) -> list[dict[str, Any]]:
    """The lines of the file, or of its first `num_bytes`, in order; a line that a kill left torn is left out."""
    with path.open("rb") as file:
        return [record for _, record in json_lines(file.read(num_bytes))]


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

    def drop_after(self, step: int) -> None:
        """Takes out what was recorded beyond `step`, except events."""
        self._file.close()
        _drop_after(self.path, step)
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def _refusal(self, reason: str) -> str:
        return (
            f"{self.path}: the metrics cannot be written ({reason}); make room, then start the command again to go on."
        )


def _drop_after(path: Path, step: int) -> None:
    content = path.read_bytes()
    kept = b"".join(
        line for line, record in json_lines(content) if record.get("kind") == "event" or record["step"] <= step
    )
    if kept != content:
        write_atomically(path, kept)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class StepMeter:
    """Speed of training since the last report, on this rank's clock.

    Time inside `outside_training` (validation, checkpoints) does not count for the speed, but does for the time to
    the end. `peak_flops` is what this rank's device can do a second, where that is known; `clock` returns seconds.
    """

    def __init__(
        self,
        start_step: int,
        max_steps: int,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._start_step = start_step
        self._max_steps = max_steps
        self._peak_flops = peak_flops
        self._clock = clock
        self._start = clock()
        self._begin_interval()

    def add_step(self, num_target_tokens: int, num_real_tokens: int, num_cells: int) -> None:
        """Counts one optimizer step.

        `num_target_tokens` is over all ranks. `num_real_tokens` of `num_cells` computed positions, source and target
        together, over any ranks but both over the same, were not padding or filler (`count_cells`).
        """
        self._steps += 1
        self._target_tokens += num_target_tokens
        self._real_tokens += num_real_tokens
        self._cells += num_cells

    def add_flops(self, flops: float) -> None:
        """Counts the floating-point operations of this rank's part of a step."""
        self._flops += flops

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._data_seconds += self._clock() - start

    @contextmanager
    def outside_training(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._outside_seconds += self._clock() - start

    def report(self, step: int) -> dict[str, float]:
        """The numbers since the last report, ready for a `train` record; `step` steps of the run are done.

        `tokens_per_second` counts real target tokens over all ranks; shares lie between 0 and 1. `peak_flops_share` is
        there where the device's peak is known.
        """
        assert self._steps > 0, "a report needs a step"
        now = self._clock()
        seconds = max(now - self._interval_start - self._outside_seconds, 1e-9)
        steps_done = step - self._start_step
        numbers = {
            "tokens_per_second": self._target_tokens / seconds,
            "seconds_per_step": seconds / self._steps,
            "padding_share": 1 - self._real_tokens / self._cells,
            "data_wait_share": self._data_seconds / seconds,
            "eta_seconds": (now - self._start) / steps_done * (self._max_steps - step),
        }
        if self._peak_flops:
            numbers["peak_flops_share"] = self._flops / seconds / self._peak_flops
        self._begin_interval()
        return numbers

    def _begin_interval(self) -> None:
        self._interval_start = self._clock()
        self._steps = self._target_tokens = self._real_tokens = self._cells = 0
        self._data_seconds = self._outside_seconds = self._flops = 0.0


def count_cells(micro_batch: MicroBatch) -> tuple[int, int]:
    """Real tokens and all computed positions of a micro-batch, source and target together; filler is not real."""
    batch = micro_batch.batch
    # The real sentences come first, the filler after them.
    num_source_tokens = int(batch.source_cu[micro_batch.num_pairs])
    return num_source_tokens + batch.num_target_tokens, batch.source_S.numel() + batch.target_out_T.numel()
