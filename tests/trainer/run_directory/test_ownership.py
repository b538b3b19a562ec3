"""A run directory belongs to one configuration and, while it trains, to one process."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.configuration import reading as configuration
from trainer.configuration.sections import Config
from trainer.errors import UserError
from trainer.run_directory import ownership
from trainer.run_directory.opening import open_run_directory
from trainer.run_directory.ownership import owning

HOLD = """
import sys, time
from trainer.run_directory.ownership import owning
with owning(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_with_the_owner_and_a_dead_owner_is_none(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), owning(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with owning(tmp_path):
        assert "process" in (tmp_path / "owner").read_text()


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with owning(tmp_path):
            pass


@pytest.fixture
def trained_elsewhere(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A run that another machine trains, whose lock is not seen here; called, it makes a heartbeat."""
    monkeypatch.setattr(ownership, "SECONDS_BETWEEN_HEARTBEATS", 0.2)
    monkeypatch.setattr(ownership, "_SECONDS_BETWEEN_LOOKS", 0.05)
    run = corpus / "run"
    (run / "heartbeats").mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"state": "training"}))

    def beat() -> None:
        told = {"step": 3, "time": time.time(), "host": "node7", "pid": 123}
        (run / "heartbeats" / "rank-00001.json").write_text(json.dumps(told))

    beat()
    return beat


def test_a_training_whose_lock_is_not_seen_here_is_known_by_its_heartbeats(
    corpus: Path, trained_elsewhere: Callable[[], None]
) -> None:
    config = config_for(corpus)  # which may take longer than the watch
    timer = threading.Timer(0.2, trained_elsewhere)
    timer.start()
    with pytest.raises(UserError, match="in use by process 123 on node7"):
        open_run_directory(config, workers=1)
    timer.join()


def test_one_that_no_longer_beats_is_dead(corpus: Path, trained_elsewhere: Callable[[], None]) -> None:
    start = time.monotonic()
    open_run_directory(config_for(corpus), workers=1)
    assert time.monotonic() - start > 0.5, "it was not watched"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [f"sentence number {n} of a small corpus" for n in range(200)]
    for name, text in (("train.en", lines), ("train.de", lines[::-1]), ("dev.en", lines[:3]), ("dev.de", lines[1:4])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text))
    return tmp_path


def config_for(folder: Path, *changes: str) -> Config:
    (folder / "given.yaml").write_text(
        f"run: {{directory: {folder}/run}}\n"
        "tokenizer: {kind: bpe, vocab_size: 300}\n"
        "data:\n"
        f"  train: [{{source: {folder}/train.en, target: {folder}/train.de}}]\n"
        f"  valid: [{{source: {folder}/dev.en, target: {folder}/dev.de}}]\n"
    )
    return configuration.load(str(folder / "given.yaml"), changes)


def test_a_changed_setting_makes_new_tokenizers_but_leaves_those_of_the_user(corpus: Path) -> None:
    open_run_directory(config_for(corpus))
    model = corpus / "run" / "tokenizer.model"
    before = model.read_bytes()
    open_run_directory(config_for(corpus, "tokenizer.vocab_size=310"))
    assert model.read_bytes() != before
    before = model.read_bytes()
    open_run_directory(config_for(corpus, f"tokenizer.path={model}", "data.max_length=100"))
    assert model.read_bytes() == before


@pytest.mark.parametrize("begun", ["checkpoints", "metrics.jsonl"])
def test_a_run_that_has_begun_keeps_its_tokenizers_without_its_configuration_too(corpus: Path, begun: str) -> None:
    open_run_directory(config_for(corpus))
    (corpus / "run" / "config.yaml").unlink()
    (corpus / "run" / begun).mkdir()
    with pytest.raises(UserError, match=r"`tokenizer\.vocab_size` is 310, but .* has 300 pieces"):
        open_run_directory(config_for(corpus, "tokenizer.vocab_size=310"))
    assert (corpus / "run" / "tokenizer.model").exists()


def test_of_a_run_that_never_came_to_be_nothing_is_left(corpus: Path) -> None:
    with pytest.raises(UserError, match="200 too long"):
        open_run_directory(config_for(corpus, "data.max_length=2"))
    assert not (corpus / "run").exists()


def test_a_start_that_was_refused_removes_nothing_of_the_other(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found no directory; the other one has made it in the meantime."""
    (corpus / "run").mkdir()
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with owning(corpus / "run"):
        (corpus / "run" / "tokenizer.model").touch()
        with pytest.raises(UserError, match="in use by"):
            open_run_directory(config_for(corpus))
        assert {path.name for path in (corpus / "run").iterdir()} == {"owner", "tokenizer.model"}


@pytest.mark.parametrize(("setting", "other"), [("data.cache", "run.directory"), ("run.directory", "data.cache")])
def test_the_folder_that_cannot_be_written_is_named(corpus: Path, setting: str, other: str) -> None:
    (corpus / "file").touch()
    with pytest.raises(UserError, match=rf"^`{setting}` is {corpus}/file/x, but {corpus}/file.* cannot be written"):
        open_run_directory(config_for(corpus, f"{setting}={corpus}/file/x", f"{other}={corpus}/other"))
