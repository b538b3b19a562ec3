"""Which checkpoints are kept, and that removing others leaves nothing that looks complete."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.checkpoints.small_state import publish
from trainer.checkpoints.directory import remove_leftovers, verify
from trainer.checkpoints.retention import apply_retention, best_first
from trainer.configuration.sections import CheckpointConfig
from trainer.run_directory.layout import checkpoint_name, list_checkpoints


@pytest.mark.parametrize(
    ("keep_best", "metric", "kept"),
    [
        (0, "bleu", [5, 6]),
        (1, "bleu", [2, 5, 6]),
        (3, "bleu", [2, 5, 6]),
        (9, "bleu", [1, 2, 3, 5, 6]),
        (9, "nll", [5, 6]),
    ],
)
def test_retention_keeps_the_last_and_the_best(tmp_path: Path, keep_best: int, metric: str, kept: list[int]) -> None:
    for step, score in enumerate([1.0, 9.0, 2.0, None, 9.0, 4.0], start=1):
        publish(tmp_path, step, score)
    apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_best=keep_best), metric)
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(step) for step in kept]


def test_one_checkpoint_every_few_steps_is_kept_for_ever(tmp_path: Path) -> None:
    for step in range(1, 10):
        publish(tmp_path, step)
        apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_every=3), "bleu")
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == [checkpoint_name(step) for step in (3, 6, 8, 9)]


def test_a_kill_amid_retention_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: Any) -> None:
    for step in (1, 2, 3):
        publish(tmp_path, step)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            apply_retention(tmp_path, CheckpointConfig(keep_last=1), "bleu")
    left = list_checkpoints(tmp_path)
    assert [path.name for path in left] == [checkpoint_name(step) for step in (2, 3)]
    assert [verify(path) for path in left] == [[], []]
    remove_leftovers(tmp_path)
    assert sorted((tmp_path / "checkpoints").iterdir()) == left


def test_the_oldest_of_equal_scores_is_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([1.0, 9.0, 9.0], start=1):
        publish(tmp_path, step, score)
    steps = [path.name for path in best_first(list_checkpoints(tmp_path), "bleu")]
    assert steps == [checkpoint_name(step) for step in (2, 3, 1)]


def test_an_unreadable_document_of_an_old_checkpoint_does_not_stop_retention(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        publish(tmp_path, step, 1.0)
    (tmp_path / "checkpoints" / checkpoint_name(1) / "trainer.json").write_text("{")
    apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_best=1), "bleu")
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(step) for step in (2, 3)]


@pytest.mark.parametrize("stray", [".DS_Store", "state/.nfs0001", "state/.ipynb_checkpoints/a"])
def test_strays_neither_count_nor_hinder_removal(tmp_path: Path, stray: str) -> None:
    for step in (1, 2, 3):
        planted = publish(tmp_path, step) / stray
        planted.parent.mkdir(exist_ok=True)
        planted.touch()
    for name in (".DS_Store", "._step-00000009", "notes.txt"):
        (tmp_path / "checkpoints" / name).touch()
    assert apply_retention(tmp_path, CheckpointConfig(keep_last=2), "bleu") == []
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(step) for step in (2, 3)]


def test_a_file_that_nfs_keeps_is_no_complaint_but_any_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        publish(tmp_path, step)

    def silly_rename(path: Path, ignore_errors: bool = False) -> None:
        """As on NFS, where a file that is open somewhere becomes `.nfs…` instead of being removed."""
        for file in list(path.rglob("*")):
            if file.is_file() and keep not in file.name:
                file.unlink()
            elif file.is_file() and keep == ".safetensors":
                file.rename(file.with_name(".nfs0001"))
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", silly_rename)
    keep = ".safetensors"
    assert apply_retention(tmp_path, CheckpointConfig(keep_last=2), "bleu") == []
    keep = "manifest.json"
    complaints = apply_retention(tmp_path, CheckpointConfig(keep_last=1), "bleu")
    assert [complaint.partition(":")[0] for complaint in complaints] == [checkpoint_name(2)]
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(3)]
