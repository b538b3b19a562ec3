"""Which checkpoint a run resumes from, and with which tokenizer."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.trainer.checkpoints.small_state import OneOfMany, publish
from trainer.checkpoints.directory import verify
from trainer.checkpoints.restore import newest_verified, restore
from trainer.errors import UserError


class Engine(OneOfMany):
    def __init__(self) -> None:
        super().__init__(0, 1)
        self.num_updates = 0

    def load_fragments(self, reader: Any) -> None:
        self.num_updates = reader.num_updates


class Data:
    state: Any = None

    def load_state(self, state: Any) -> None:
        self.state = state


def newest(run: Path) -> Path | None:
    return newest_verified(cast(Any, Engine()), run)


def test_a_run_without_checkpoints_starts_from_nothing(tmp_path: Path) -> None:
    assert newest(tmp_path) is None


@pytest.mark.parametrize(
    "stray",
    ["state/.DS_Store", "state/.nfs0001", "state/.ipynb_checkpoints", "state/._rank-00000-of-00001.safetensors"],
)
def test_strays_are_no_damage(tmp_path: Path, stray: str) -> None:
    path = publish(tmp_path)
    (path / stray).mkdir() if "ipynb" in stray else (path / stray).write_bytes(b"x")
    (path.parent / ".DS_Store").touch()
    assert verify(path) == []
    assert newest(tmp_path) == path


def test_a_damaged_one_is_renamed_and_the_one_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    (newer / "lanes.json").unlink()
    assert newest(tmp_path) == older
    assert {path.name for path in older.parent.iterdir()} == {older.name, "damaged-step-00000002"}
    assert "lanes.json cannot be read" in capsys.readouterr().err
    again = publish(tmp_path, 2)
    (again / "lanes.json").unlink()
    assert newest(tmp_path) == older  # although a damaged one of that step was renamed before


def test_if_all_are_damaged_nothing_is_renamed(tmp_path: Path) -> None:
    path = publish(tmp_path)
    (path / "lanes.json").unlink()
    with pytest.raises(UserError, match="no sound one before it"):
        newest(tmp_path)
    assert path.exists()


def test_a_checkpoint_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    path = publish(tmp_path, 2)
    (path / "manifest.json").write_text('{"format": 9, "files": {}}')
    with pytest.raises(UserError, match=r"manifest.json has format 9, .* reads formats up to 1"):
        newest(tmp_path)
    assert path.exists()


@pytest.mark.parametrize("recorded", ["ab", None])
def test_engine_and_data_are_put_back_with_the_same_tokenizer_or_one_that_was_not_recorded(
    tmp_path: Path, recorded: str | None
) -> None:
    engine, data = Engine(), Data()
    document = restore(publish(tmp_path, 5, 3.0, recorded), cast(Any, engine), cast(Any, data), "ab")
    assert (engine.num_updates, data.state, document.progress["score"]) == (5, {}, 3.0)


def test_another_tokenizer_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    engine, data = Engine(), Data()
    with pytest.raises(UserError, match=r"step-00000005 was made with another tokenizer"):
        restore(publish(tmp_path, 5, tokenizer="ab"), cast(Any, engine), cast(Any, data), "cd")
    assert (engine.num_updates, data.state) == (0, None)
