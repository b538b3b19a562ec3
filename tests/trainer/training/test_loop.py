"""What the loop decides between steps, with an engine that does as the test wants."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.engines import FakeEngine
from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.directory import verify
from trainer.checkpoints.state_files import HostCopy
from trainer.checkpoints.trainer_document import TrainerDocument
from trainer.configuration.sections import (
    BadStepsConfig,
    CheckpointConfig,
    Config,
    EvaluationConfig,
    RunConfig,
    TrackingConfig,
)
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds
from trainer.engine.base import StepResult
from trainer.errors import UserError
from trainer.reporting.events import Event
from trainer.run_directory.layout import checkpoint_name, list_checkpoints
from trainer.run_directory.stop_reason import StopReason
from trainer.run_directory.watchdog import Watchdog
from trainer.training.collaborators import Collaborators
from trainer.training.loop import Loop
from trainer.training.progress import Progress
from trainer.training.stop_request import StopRequest
from trainer.training.validation import CutShort, ValidationResult

SENTENCE = Side(np.array([5, 6, 7, 3]), np.array([4]))
BATCH = MicroBatch(pack(SENTENCE, SENTENCE, SpecialIds(0, 0, 2)), 3, 0, 1, (np.zeros(1, int), np.zeros(1, int)))


class FakeData:
    def largest(self, share: float) -> Any:
        return BATCH

    def next_step(self) -> list[Any]:
        return [BATCH]

    def state(self) -> dict[str, Any]:
        corpus = {"name": "phrasebook", "num_pairs": 8, "rejected": {"copy": 3}}
        counts = {"pairs": [4], "source_tokens": [30], "target_tokens": [40], "too_long": [2]}
        return {"micro_batches": 1, "corpora": [corpus], "lanes": {"0": {"counts": counts}}}


class FakeReporter:
    def __init__(self) -> None:
        self.events: list[tuple[int, str, str]] = []
        self.records: list[dict[str, Any]] = []

    def event(self, step: int, event: str, detail: str) -> None:
        self.events.append((step, event, detail))

    def train(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def valid(self, record: dict[str, Any], samples: Any, best: bool) -> None:
        self.records.append(record)

    def step(self, step: int) -> None:
        pass

    def saved(self, step: int, path: Path, best: bool) -> None:
        self.events.append((step, "saved", f"{path} {best}"))

    def updated(self, step: int, path: Path, best: bool) -> None:
        self.events.append((step, "best", f"{path} {best}"))

    def rolled_back(self, step: int, detail: str) -> None:
        self.events.append((step, "rolled back", detail))


class FakeValidator:
    """Gives the scores one after the other, as BLEU; an exception instead of a score is raised."""

    notices = ("line 3 of val is too long",)
    score_warning: str | None = "val is written without spaces"

    def __init__(self, *scores: float | Exception) -> None:
        self.scores = iter(scores)
        self.rehearsed = 0

    def make_room(self, device: torch.device) -> None:
        pass

    def rehearse(self, engine: Any) -> None:
        self.rehearsed += 1

    def validate(self, engine: Any, stop: StopRequest) -> list[ValidationResult]:
        if stop.reason:
            raise CutShort
        score = next(self.scores)
        if isinstance(score, Exception):
            raise score
        return [ValidationResult("val", 1.0, 9, bleu=score)]


def make_loop(tmp_path: Path, engine: FakeEngine, validator: Any = None, **changes: Any) -> Loop:
    changes_go_back = changes.pop("go_back", None)
    changes_progress = changes.pop("progress", None)
    config = Config(
        run=RunConfig(directory=str(tmp_path), max_steps=changes.pop("max_steps", 6)),
        checkpoint=CheckpointConfig(every_steps=2, keep_last=10, max_failed_saves=changes.pop("max_failed_saves", 3)),
        evaluation=EvaluationConfig(every_steps=1, patience=changes.pop("patience", 0)),
        tracking=TrackingConfig(every_steps=1),
    )
    config = dataclasses.replace(config, **changes)
    watchdog = Watchdog(tmp_path, 0, config.hang, lambda message: None)
    go_back = changes_go_back or (lambda: None)
    parts: Any = Collaborators(
        cast(Any, engine), cast(Any, FakeData()), validator, cast(Any, FakeReporter()), StopRequest(), watchdog, go_back
    )
    return Loop(config, parts, changes_progress or Progress())


def events(loop: Loop) -> list[tuple[int, str, str]]:
    return cast(FakeReporter, loop.reporter).events


def test_it_saves_when_due_and_at_the_end(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, FakeEngine(), max_steps=5)
    assert loop.run() == "finished"
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == [checkpoint_name(step) for step in (2, 4, 5)]


def test_before_the_first_step_the_largest_micro_batch_is_rehearsed(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, FakeEngine())
    loop.run()
    engine = cast(FakeEngine, loop.engine)
    assert engine.rehearsed == [[4, 4]] * 4, "two micro-batches, of four shares of the budget"
    loop.progress.step = 6
    loop.run()
    assert len(engine.rehearsed) == 4, "a run that has ended"


def test_a_shortage_of_memory_is_found_now_and_then(tmp_path: Path) -> None:
    engine = FakeEngine()
    whole = engine.step
    engine.step = lambda *arguments: dataclasses.replace(whole(*arguments), num_splits=3)  # type: ignore[method-assign]
    loop = make_loop(tmp_path, engine)
    loop.run()
    found = [(step, detail) for step, event, detail in events(loop) if event == "out of memory"]
    assert [step for step, _ in found] == [1, 2, 4]
    assert found[0][1].startswith("3 micro-batches")


def test_a_skipped_step_is_found_and_does_not_advance_the_rate(tmp_path: Path) -> None:
    engine = FakeEngine(skipped={3})
    loop = make_loop(tmp_path, engine)
    loop.run()
    assert (3, "skipped", "gradients not finite; micro-batches 3 (lane 0)") in events(loop)
    assert engine.rates[3] == engine.rates[2]
    assert engine.rates[4] > engine.rates[3]


def test_a_run_that_only_skips_ends_with_a_sentence(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, FakeEngine(skipped=set(range(1, 100))), max_steps=50)
    with pytest.raises(UserError, match=r"diverged: 20 steps in a row up to step 20 .* after 0 rollbacks"):
        loop.run()


def test_after_bad_steps_in_a_row_it_goes_back_and_on_with_the_data(tmp_path: Path) -> None:
    engine = FakeEngine(skipped={4, 5, 6})
    back = [Progress(step=2, target_tokens=10), Progress(step=2, target_tokens=10)]
    bad_steps = BadStepsConfig(max_in_a_row=3, lr_factor=0.5, max_rollbacks=1)
    loop = make_loop(tmp_path, engine, bad_steps=bad_steps, go_back=lambda: back.pop())
    assert loop.run() == "finished"
    assert (2, "rolled back", "from step 6; its data is passed over, learning rate times 0.5") in events(loop)
    assert engine.calls == 6 + 4
    assert engine.rates[6] == pytest.approx(engine.rates[3] / 2)
    saved = checkpoint.read_document(list_checkpoints(tmp_path)[0], "trainer.json")
    assert (saved["step"], saved["rollbacks"], saved["lr_scale"]) == (2, 1, 0.5)


def test_no_checkpoint_is_made_amid_bad_steps(tmp_path: Path) -> None:
    """It would be the newest, and going back to it would bring back what the bad steps came from."""
    loop = make_loop(tmp_path, FakeEngine(skipped={4, 5, 6}), max_steps=8)
    loop.run()
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(s) for s in (2, 7, 8)]


def test_rollbacks_are_counted_and_end(tmp_path: Path) -> None:
    bad_steps = BadStepsConfig(max_in_a_row=3, max_rollbacks=2)
    engine = FakeEngine(skipped=set(range(3, 100)))
    loop = make_loop(tmp_path, engine, bad_steps=bad_steps, go_back=lambda: Progress(step=2))
    with pytest.raises(UserError, match=r"3 steps in a row up to step 5 .* after 2 rollbacks"):
        loop.run()


def test_a_loss_far_above_the_others_is_skipped_if_configured(tmp_path: Path) -> None:
    engine = FakeEngine()
    bounds: list[float | None] = []

    def step(micro_batches: Any, loss_fn: Any, lr: float, max_loss: float | None) -> StepResult:
        engine.calls += 1
        bounds.append(max_loss)
        loss = 30.0 if engine.calls == 40 else 5.0 + 0.1 * (engine.calls % 3)
        skipped = max_loss is not None and loss > max_loss
        engine.num_updates += not skipped
        return StepResult(loss, loss, 5, 0.5, skipped)

    engine.step = step  # type: ignore[method-assign, assignment]
    loop = make_loop(tmp_path, engine, max_steps=50, bad_steps=BadStepsConfig(spike_threshold=8.0))
    loop.run()
    assert [(step, event) for step, event, _ in events(loop) if event != "saved"] == [(40, "skipped")]
    assert all(bound is None for bound in bounds[:20])
    assert bounds[40] == pytest.approx(5.1 + 8 * 1.4826 * 0.1)
    newest = list_checkpoints(tmp_path)[-1]
    assert len(checkpoint.read_document(newest, "trainer.json")["recent_losses"]) == 49


def test_the_best_is_saved_at_once_and_patience_ends_the_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, FakeEngine(), FakeValidator(10, 30, 20, 25, 40), patience=2)
    assert loop.run() == "stopped early"
    assert (loop.progress.step, loop.progress.best_step, loop.progress.best_score) == (4, 2, 30)
    documents = {p.name: checkpoint.read_document(p, "trainer.json") for p in list_checkpoints(tmp_path)}
    assert {name: document["score"] for name, document in documents.items()} == {
        checkpoint_name(1): 10,
        checkpoint_name(2): 30,
        checkpoint_name(4): 25,
    }
    saved = [(s, event, detail.rpartition(" ")[2]) for s, event, detail in events(loop) if event in ("saved", "best")]
    assert saved == [
        (1, "saved", "True"), (2, "saved", "False"), (2, "best", "True"), (4, "saved", "False"), (4, "best", "False"),
    ]  # fmt: skip
    assert not any(verify(path) for path in list_checkpoints(tmp_path))


def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    engine = FakeEngine()
    loop = make_loop(tmp_path, engine)
    real_step = engine.step

    def step_with_signal(*arguments: Any) -> StepResult:
        if engine.calls == 2:
            loop._stop.reason = StopReason.SIGTERM
        return real_step(*arguments)

    engine.step = step_with_signal  # type: ignore[method-assign, assignment]
    assert loop.run() == "SIGTERM"
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(s) for s in (2, 3)]


def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, engine := FakeEngine())
    loop._stop.reason = StopReason.SIGUSR1
    assert loop.run() == "SIGUSR1"
    assert (engine.calls, engine.rehearsed, list_checkpoints(tmp_path)) == (0, [], [])


def test_a_signal_during_a_save_lets_it_end_and_saves_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, real = make_loop(tmp_path, FakeEngine()), HostCopy.write

    def write(*arguments: Any) -> Any:
        loop._stop.reason = StopReason.SIGTERM
        return real(*arguments)

    monkeypatch.setattr(HostCopy, "write", write)
    assert loop.run() == "SIGTERM"
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names[0] == checkpoint_name(2)
    assert names[-1] == checkpoint_name(loop.progress.step)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_validation_that_a_signal_cut_short_is_made_by_the_next_start(tmp_path: Path) -> None:
    """At the last step, too: the run has not ended before it knows its score."""
    loop = make_loop(tmp_path, FakeEngine(), FakeValidator(5, 10, 15), max_steps=3)
    loop.reporter.step = lambda step: setattr(loop._stop, "reason", StopReason.SIGTERM if step == 3 else None)  # type: ignore[method-assign]
    assert loop.run() == "SIGTERM"
    document = checkpoint.read_document(list_checkpoints(tmp_path)[-1], "trainer.json")
    assert (document["step"], document["score"], document["validation_due"]) == (3, None, True)
    progress = Progress.from_document(TrainerDocument.read(list_checkpoints(tmp_path)[-1]), "bleu")
    again = make_loop(tmp_path, engine := FakeEngine(), FakeValidator(20), max_steps=3, progress=progress)
    assert again.run() == "finished"
    document = checkpoint.read_document(list_checkpoints(tmp_path)[-1], "trainer.json")
    assert (document["step"], document["score"], document["best_step"]) == (3, 20, 3)
    assert engine.calls == 0


def test_a_checkpoint_that_is_due_outlives_a_validation_that_fails(tmp_path: Path) -> None:
    """The next start repeats the validation, and the checkpoint gets its score without being written once more."""
    loop = make_loop(tmp_path, FakeEngine(), FakeValidator(5, MemoryError("gone")), max_steps=2)
    with pytest.raises(MemoryError):
        loop.run()
    newest = list_checkpoints(tmp_path)[-1]
    document = TrainerDocument.read(newest)
    assert (newest.name, document.progress["score"], document.progress["validation_due"]) == (
        checkpoint_name(2),
        None,
        True,
    )
    state = [(path.name, path.stat().st_ino) for path in (newest / "state").iterdir()]
    progress = Progress.from_document(document, "bleu")
    again = make_loop(tmp_path, engine := FakeEngine(), FakeValidator(20), max_steps=2, progress=progress)
    assert again.run() == "finished"
    document = TrainerDocument.read(newest)
    assert (document.progress["score"], document.progress["validation_due"]) == (20, False)
    assert [(path.name, path.stat().st_ino) for path in (newest / "state").iterdir()] == state
    assert verify(newest) == []
    assert engine.calls == 0


def test_validation_is_rehearsed_and_long_pairs_are_named_once(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, FakeEngine(), validator := FakeValidator(*range(6)))
    loop.run()
    assert validator.rehearsed == 1
    assert [event for event in events(loop) if event[0] == 0] == [
        (0, Event.VALIDATION_PAIR_CUT, "line 3 of val is too long"),
        (0, Event.SCORE_WARNING, "val is written without spaces"),
    ]


def test_a_run_that_has_ended_makes_no_further_step(tmp_path: Path) -> None:
    engine = FakeEngine()
    loop = make_loop(tmp_path, engine, patience=2)
    loop.progress.step, loop.progress.evaluations_since_best = 4, 2
    assert loop.run() == "stopped early"
    assert engine.calls == 0


def test_a_failing_disk_is_outlived_until_so_many_saves_in_a_row_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = HostCopy.write, [1, 2]

    def sometimes(*arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(HostCopy, "write", sometimes)
    loop = make_loop(tmp_path, FakeEngine())
    assert loop.run() == "finished"
    assert [event for _, event, _ in events(loop)] == ["save failed", "save failed", "saved"]
    failures.extend([1] * 10)
    with pytest.raises(UserError, match=r"step 6 could not be written.*No space left"):
        make_loop(tmp_path, FakeEngine()).run()
    loop = make_loop(tmp_path, FakeEngine(), max_failed_saves=1)
    with pytest.raises(UserError, match=r"step 2 could not be written"):
        loop.run()


def test_progress_survives_its_document() -> None:
    progress = Progress(step=7, target_tokens=100, best_score=3.0, best_step=5, evaluations_since_best=2)
    document = TrainerDocument(progress=dataclasses.asdict(progress), num_updates=6, metric="bleu")
    assert Progress.from_document(document, "bleu") == progress
    assert Progress.from_document(document, "nll") == Progress(step=7, target_tokens=100)
