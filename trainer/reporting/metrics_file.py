"""`metrics.jsonl`, the record of a run: one JSON object per line. `trainer.reporting.events` describes the objects."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.files import json_lines, write_atomically


def read_metrics(path: Path, num_bytes: int = -1) -> list[dict[str, Any]]:
    """The records of the file, or of its first `num_bytes`, in order, without lines that a kill cut short."""
    with path.open("rb") as file:
        return [record for _, record in json_lines(file.read(num_bytes))]


class MetricsFile:
    """Appends records; what has been written survives the death of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: each line is one write to the kernel, so a killed process loses no finished line.
        self._file = path.open("ab", buffering=0)

    @classmethod
    def open(cls, path: Path, resume_step: int, validation_due: bool = False) -> "MetricsFile":
        """Opens the file of a run that resumes from `resume_step` (0: a new run).

        Removes the lines, other than events, of what the resumed run makes again: the steps after `resume_step` and,
        if its validation is due, that as well.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _drop_after(path, resume_step, validation_due)
        return cls(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line; NaN and infinities, which JSON does not have, become null.

        Raises UserError if the disk does not take the line; the file then holds what it held before.
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
        """Removes what was recorded beyond `step`, except events."""
        self._file.close()
        _drop_after(self.path, step)
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def _refusal(self, reason: str) -> str:
        return (
            f"{self.path}: the metrics cannot be written ({reason}); make room, then give the same command again, "
            "which resumes the run."
        )


def _drop_after(path: Path, step: int, validation_due: bool = False) -> None:
    def is_kept(record: Mapping[str, Any]) -> bool:
        if record.get("kind") == "event":
            return True
        last = step - 1 if validation_due and record.get("kind") == "valid" else step
        return bool(record["step"] <= last)

    content = path.read_bytes()
    kept = b"".join(line for line, record in json_lines(content) if is_kept(record))
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
