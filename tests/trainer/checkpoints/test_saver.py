"""Saves in two phases, and saves that fail."""

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.checkpoints.small_state import publish, saver_of
from trainer.checkpoints.saver import SaveFailed
from trainer.checkpoints.state_files import HostCopy
from trainer.configuration.sections import CheckpointConfig
from trainer.run_directory.layout import list_checkpoints


def test_a_save_that_fails_leaves_nothing_and_the_older_one_stands(tmp_path: Path, monkeypatch: Any) -> None:
    older = publish(tmp_path, 1)

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HostCopy, "write", full)
    with pytest.raises(SaveFailed, match=r"rank 0.*No space left"):
        publish(tmp_path, 2)
    assert list((tmp_path / "checkpoints").iterdir()) == [older]


def test_a_save_is_written_first_and_published_after_the_next_agreement(tmp_path: Path) -> None:
    saver = saver_of(tmp_path, CheckpointConfig(keep_last=1))
    documents: dict[str, Any] = {"trainer.json": {}, "lanes.json": {}}
    saver.begin(7, documents)
    assert saver.busy
    assert saver.advance() is None
    saved = saver.advance()
    assert saved is not None
    assert (saved.step, saved.complaints, saver.busy) == (7, [], False)
    assert list_checkpoints(tmp_path) == [saved.path]
    saver.begin(8, documents)
    assert list_checkpoints(tmp_path) == [saved.path]
    assert saver.finish().path == list_checkpoints(tmp_path)[0]
