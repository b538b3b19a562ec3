"""A summary of `metrics.jsonl` for those who read it again and again while it grows. Without torch."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

# Nearly all lines are of this kind, and only the newest of them is decoded. Inside a JSON string the quotes would be
# escaped, so these bytes are a key and its value; no record has another object with a key `kind`.
_TRAIN = re.compile(rb'"kind"\s*:\s*"train"')


class MetricsDigest:
    """The newest `train` record, the validations set by set, and all events.

    `update` reads on from where it stopped: the file of a long run is large. A file that was rewritten, as a resume
    and a rollback do, is read again from the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self.train: dict[str, Any] | None = None
        self.valid: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []

    def update(self) -> None:
        """Takes in what is new. A file that is not there, or not yet, is an empty one."""
        with suppress(OSError), self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if self._identity != (found.st_dev, found.st_ino) or found.st_size < self._offset:
                self._forget()
            self._identity = found.st_dev, found.st_ino
            file.seek(self._offset)
            newest = b""
            for line in file:
                if not line.endswith(b"\n"):  # being written, or torn by a kill
                    break
                self._offset += len(line)
                if _TRAIN.search(line):
                    newest = line
                else:
                    self._take(line)
            self._take(newest)

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            kind = record["kind"]
        except (ValueError, KeyError, TypeError):
            return
        if kind == "train":
            self.train = record
        elif kind == "valid":
            self.valid.setdefault(str(record.get("name")), []).append(record)
        elif kind == "event":
            self.events.append(record)
