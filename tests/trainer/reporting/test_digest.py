"""The digest of a growing file equals that of a full reading."""

import json
from pathlib import Path
from typing import Any

from trainer.reporting.digest import MetricsDigest
from trainer.reporting.metrics_file import MetricsFile

STARTED = {"kind": "event", "step": 0, "event": "started"}


def train(step: int) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": 9.0 - step}


def valid(step: int, name: str = "news") -> dict[str, Any]:
    return {"kind": "valid", "step": step, "name": name, "bleu": float(step)}


def test_what_is_added_is_read_and_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    digest = MetricsDigest(path)
    digest.update()
    assert (digest.train, digest.valid, digest.events) == (None, {}, [])
    file = MetricsFile(path)
    for record in (STARTED, train(1), valid(1), train(2)):
        file.write(record)
    digest.update()
    assert (digest.train, digest.valid, digest.events) == (train(2), {"news": [valid(1)]}, [STARTED])
    for record in (train(3), valid(3), valid(3, "talks")):
        file.write(record)
    digest.update()
    assert (digest.train, digest.valid) == (train(3), {"news": [valid(1), valid(3)], "talks": [valid(3, "talks")]})
    file.drop_after(2)
    digest.update()
    assert (digest.train, digest.valid, digest.events) == (train(2), {"news": [valid(1)]}, [STARTED])


def test_a_line_is_taken_when_it_is_whole_and_a_torn_one_never(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "st')
    digest = MetricsDigest(path)
    digest.update()
    assert digest.train == {"kind": "train", "step": 1}
    with path.open("a") as file:
        file.write('ep": 2}\n{"kind": "tr{"kind": "event"}\n[]\n')
    digest.update()
    assert digest.train == {"kind": "train", "step": 2}
    assert digest.events == []


def test_the_order_of_a_lines_keys_does_not_matter(tmp_path: Path) -> None:
    """Another program, or another version, may write them in another order, with other spaces."""
    path = tmp_path / "metrics.jsonl"
    lines = [dict(reversed(record.items())) for record in (train(1), valid(1), STARTED, train(2), train(3))]
    lines[1]["samples"] = [{"source": '"kind": "train"'}]
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    digest = MetricsDigest(path)
    digest.update()
    assert (digest.train, digest.valid, digest.events) == (train(3), {"news": [lines[1]]}, [STARTED])
