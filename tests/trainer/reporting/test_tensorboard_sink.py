from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UserError
from trainer.reporting import tensorboard_sink as tensorboard
from trainer.reporting.background_tracker import BackgroundTracker, NoTracker, Trackers
from trainer.reporting.tensorboard_sink import TensorBoardSink, require_tensorboard
from trainer.run_directory.stop_reason import RunOutcome

SAMPLE = {"source": "Ja.", "hypothesis": "Yes.", "reference": "Yes.", "chrf": 100.0}


def train(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "target_tokens": 30 * step, "loss": loss}


def start(run: Path, start_step: int, records: list[dict[str, Any]]) -> list[str]:
    messages: list[str] = []
    tracker = Trackers(
        NoTracker(), BackgroundTracker(TensorBoardSink(run, start_step), messages.append, name="TensorBoard")
    )
    for record in records:
        tracker.log(record)
    tracker.close(RunOutcome.FINISHED)
    return messages


def test_a_resumed_run_draws_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    valid = {"kind": "valid", "name": "val", "step": 4, "bleu": 30.0, "samples": [SAMPLE]}
    saved = {"kind": "event", "step": 4, "event": "save failed", "detail": "no space left"}
    assert start(tmp_path, 0, [*(train(step, step / 2) for step in range(1, 7)), valid, saved]) == []
    assert start(tmp_path, 4, [train(step, step / 4) for step in (5, 6, 7)]) == []
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"train/loss", "valid/val/bleu", "event/save_failed"}
    losses = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert losses == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (5, 1.25), (6, 1.5), (7, 1.75)]
    assert found.Tags()["tensors"] == ["valid/val/samples/text_summary"]


def test_what_keeps_it_from_writing_is_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorboard").write_text("in the way of its folder")
    (messages,) = start(tmp_path, 0, [train(step, 1.0) for step in range(10)])
    assert messages.startswith("TensorBoard is off for the rest of this run")
    require_tensorboard()
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_tensorboard()
