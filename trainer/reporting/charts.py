"""The numbers of a record under the names of a tracker's charts."""

from collections.abc import Mapping
from typing import Any

X_AXES = ("step", "target_tokens")


def chart_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under their names in a tracker: `train/loss`, `valid/<name>/bleu`, `data/<corpus>/pairs`;
    the x-axes stay bare. An event is a 1 at its step: `event/skipped`."""
    if record["kind"] == "event":
        return {"step": record["step"], f"event/{record['event'].replace(' ', '_')}": 1}
    group = {"train": "train", "valid": f"valid/{record.get('name')}"}[record["kind"]]
    numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
    values = {key if key in X_AXES else f"{group}/{key}": value for key, value in numbers.items()}
    return values | _flattened("data", record.get("data", {}))


def _flattened(path: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {name: n for key, item in value.items() for name, n in _flattened(f"{path}/{key}", item).items()}
    return {path: value}
