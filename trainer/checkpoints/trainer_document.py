"""`trainer.json`: how far training had come when a checkpoint was taken, and what it was made with.

{"format", "num_updates", "learning_rate", "metric", "world_size", "engine", "tokenizer", and the fields of `Progress`}
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.run_directory.layout import TRAINER_DOCUMENT

_FORMAT = 1  # files without a number are older and lack `learning_rate` and `tokenizer`


@dataclass(frozen=True, kw_only=True)
class TrainerDocument:
    """The content of `trainer.json`. `learning_rate` is that of the last update, `metric` names the validation score in
    `progress`, `tokenizer` is the fingerprint of the tokenizers, `world_size` and `engine` only record what wrote the
    checkpoint. None: not recorded."""

    num_updates: int
    progress: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    metric: str | None = None
    world_size: int | None = None
    engine: str | None = None
    tokenizer: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What is written, in one level."""
        own = asdict(self)
        return {"format": _FORMAT} | dict(own.pop("progress")) | own

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainerDocument":
        """Raises UserError for the file of a newer version, OSError or ValueError for one that cannot be read."""
        path = checkpoint / TRAINER_DOCUMENT
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or not isinstance(document.get("num_updates"), int):
            raise UserError(f"{path} must hold an object with `num_updates`: restore the checkpoint from a copy.")
        require_format(document.pop("format", _FORMAT), _FORMAT, path)
        own = {f.name: document.pop(f.name) for f in fields(cls) if f.name in document and f.name != "progress"}
        return cls(progress=document, **own)

    def require_tokenizer(self, fingerprint: str, checkpoint: Path) -> None:
        """Raises UserError if `checkpoint` was made with other tokenizers than those that are in use."""
        if self.tokenizer not in (None, fingerprint):
            raise UserError(
                f"{checkpoint} was made with another tokenizer than the one that {checkpoint.parents[1]} holds now: "
                "bring the old tokenizer back, or start again with another `run.directory`."
            )

    def require_progress_keys(self, known: Collection[str]) -> None:
        """Raises UserError if `progress` has a key that this version does not know and would lose."""
        unknown = sorted(self.progress.keys() - set(known))
        if unknown:
            raise UserError(
                f"{TRAINER_DOCUMENT} of the checkpoint after step {self.progress.get('step')} has the key "
                f"`{unknown[0]}`, which this version of dragoman does not know: use the version that wrote it."
            )


def require_format(found: Any, newest: int, path: Path) -> None:
    """Raises UserError if `path` has a format number above `newest`, ValueError if it has none."""
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"format {found}")
    if found > newest:
        raise UserError(
            f"{path} has format {found}, but this version of dragoman reads formats up to {newest}: use the version "
            "that wrote the checkpoint."
        )
