"""Checkpoints: published whole or not at all, readable by any number of ranks, never from outside their directory."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.saver import SaveFailed, Saver
from trainer.checkpoints.state_files import FragmentFiles, HostCopy
from trainer.configuration.sections import CheckpointConfig
from trainer.engine.base import Fragment
from trainer.errors import UserError
from trainer.run_directory.layout import checkpoint_name, list_checkpoints

KEEP_ALL = CheckpointConfig(keep_last=99)
SIZES = {"a.weight": 10, "b.bias": 3}


def parameter(name: str, kind: str) -> Tensor:
    start = {"weight": 0.0, "exp_avg": 100.0, "exp_avg_sq": 200.0}[kind]
    return torch.arange(SIZES[name], dtype=torch.float32) + start


class OneOfMany:
    """The engine of one rank, as far as saving needs it; ranks save one after the other into the same directory."""

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def fragments(self) -> Iterator[Fragment]:
        for name, size in SIZES.items():
            start, end = (size * k // self.world_size for k in (self.rank, self.rank + 1))
            if end > start:
                kinds = (parameter(name, kind)[start:end] for kind in ("weight", "exp_avg", "exp_avg_sq"))
                yield Fragment(name, start, *kinds)


def publish(run: Path, step: int = 1, score: float | None = None) -> Path:
    documents = {"trainer.json": {"num_updates": step, "score": score, "metric": "bleu"}, "lanes.json": {}}
    saver = saver_of(run)
    saver.begin(step, documents)
    return saver.finish().path


def saver_of(run: Path, retention: CheckpointConfig = KEEP_ALL) -> Saver:
    return Saver(run, cast(Any, OneOfMany(0, 1)), retention, "bleu")


def files_of(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_published_checkpoint_has_the_documented_files_and_verifies(tmp_path: Path) -> None:
    path = publish(tmp_path, 10_000)
    state = "state/rank-00000-of-00001.safetensors"
    assert path == tmp_path / "checkpoints" / "step-00010000"
    assert files_of(path) == {state, "trainer.json", "lanes.json", "manifest.json"}
    assert checkpoint.verify(path) == []
    assert checkpoint.newest_checkpoint(tmp_path) == path


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_slice_reads_back_whatever_the_number_of_writers(tmp_path: Path, world_size: int) -> None:
    (tmp_path / "state").mkdir()
    for rank in range(world_size):
        copy = HostCopy()
        copy.take(OneOfMany(rank, world_size).fragments())
        copy.write(tmp_path, rank, world_size)
    files = FragmentFiles(tmp_path, num_updates=7)
    assert files.names == sorted(SIZES)
    for name, size in SIZES.items():
        assert files.numel(name) == size
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            for start in range(size):
                for end in range(start, size + 1):
                    read = files.read(name, kind, start, end - start)
                    assert torch.equal(read, parameter(name, kind)[start:end])


def test_reading_what_the_state_does_not_hold_is_refused(tmp_path: Path) -> None:
    files = checkpoint.fragment_files(publish(tmp_path))
    with pytest.raises(ValueError, match=r"no elements 3 to 4 of `b.bias`"):
        files.read("b.bias", "weight", 0, 4)
    with pytest.raises(ValueError, match=r"no elements"):
        files.read("unknown", "weight", 0, 1)


def test_read_weights_gives_every_parameter(tmp_path: Path) -> None:
    weights = checkpoint.read_weights(publish(tmp_path))
    assert set(weights) == set(SIZES)
    assert all(torch.equal(weights[name], parameter(name, "weight")) for name in SIZES)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda path: flip_byte(next((path / "state").iterdir())), "does not match its checksum"),
        (lambda path: (path / "lanes.json").unlink(), "cannot be read"),
        (lambda path: (path / "trainer.json").write_text("{}"), "bytes instead of"),
        (lambda path: (path / "state" / "extra.pkl").write_bytes(b"x"), "is not in manifest.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda path: rewrite_manifest(path, "../../config.yaml"), "outside the checkpoint"),
        (lambda path: rewrite_manifest(path, "../config.yaml"), "outside the checkpoint"),
        (lambda path: rewrite_manifest(path, ".."), "outside the checkpoint"),
        (lambda path: (path / "manifest.json").write_text('{"format": 1, "files": {}}'), "trainer.json is not in"),
        (lambda path: (path / "manifest.json").write_text('{"format": 1, "files": 5}'), "cannot be read"),
        (lambda path: (path / "manifest.json").write_text('{"format": 9, "files": {}}'), "format 9"),
        (lambda path: rewrite_manifest(path, "/etc/passwd"), "outside the checkpoint"),
        (lambda path: make_directory(next((path / "state").iterdir())), "cannot be read (Is a directory)"),
        (lambda path: plant_pickle(path, next((path / "state").iterdir()).name), "is no safetensors file"),
        (lambda path: plant_pickle(path, "optimizer.pt"), "optimizer.pt is no safetensors file"),
        (lambda path: link_outside(next((path / "state").iterdir())), "is a link"),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, harm: Any, complaint: str) -> None:
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    harm(newer)
    assert complaint in " ".join(checkpoint.verify(newer))
    assert checkpoint.newest_checkpoint(tmp_path) == older


def rewrite_manifest(path: Path, name: str) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = [1, "00"]
    (path / "manifest.json").write_text(json.dumps(manifest))


def make_directory(path: Path) -> None:
    """What cannot be read as a file, not even by root."""
    path.unlink()
    path.mkdir()


class EndsWhoLoadsIt:
    def __reduce__(self) -> Any:
        return os._exit, (1,)


def plant_pickle(path: Path, name: str) -> None:
    """With its true size and checksum in the manifest."""
    planted = path / "state" / name
    planted.write_bytes(pickle.dumps(EndsWhoLoadsIt()))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][f"state/{name}"] = checkpoint.describe(planted)
    (path / "manifest.json").write_text(json.dumps(manifest))


def link_outside(path: Path) -> None:
    outside = path.parents[3] / path.name
    path.rename(outside)
    path.symlink_to(outside)


def test_the_ranks_share_out_the_hashing(tmp_path: Path) -> None:
    path = publish(tmp_path)
    flip_byte(next((path / "state").iterdir()))
    found = [checkpoint.verify(path, rank, 3) for rank in range(3)]
    assert sum(map(bool, found)) == 1


def test_a_save_that_fails_leaves_nothing_and_the_older_one_stands(tmp_path: Path, monkeypatch: Any) -> None:
    older = publish(tmp_path, 1)

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HostCopy, "write", full)
    with pytest.raises(SaveFailed, match=r"rank 0.*No space left"):
        publish(tmp_path, 2)
    assert list((tmp_path / "checkpoints").iterdir()) == [older]


def test_what_a_kill_left_is_never_listed_and_is_removed(tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    shutil.copytree(path, path.with_name(".tmp-step-00000002"))
    shutil.copytree(path, path.with_name(".old-step-00000003"))
    assert list_checkpoints(tmp_path) == [path]
    checkpoint.remove_leftovers(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == [path]


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
    checkpoint.apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_best=keep_best), metric)
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(step) for step in kept]


def test_every_so_many_steps_one_is_kept_for_ever(tmp_path: Path) -> None:
    for step in range(1, 10):
        publish(tmp_path, step)
        checkpoint.apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_every=3), "bleu")
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
            checkpoint.apply_retention(tmp_path, CheckpointConfig(keep_last=1), "bleu")
    left = list_checkpoints(tmp_path)
    assert [path.name for path in left] == [checkpoint_name(step) for step in (2, 3)]
    assert [checkpoint.verify(path) for path in left] == [[], []]
    checkpoint.remove_leftovers(tmp_path)
    assert sorted((tmp_path / "checkpoints").iterdir()) == left


def test_the_oldest_of_equal_scores_is_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([1.0, 9.0, 9.0], start=1):
        publish(tmp_path, step, score)
    steps = [path.name for path in checkpoint.best_first(list_checkpoints(tmp_path), "bleu")]
    assert steps == [checkpoint_name(step) for step in (2, 3, 1)]


def test_an_unreadable_document_of_an_old_checkpoint_does_not_stop_retention(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        publish(tmp_path, step, 1.0)
    (tmp_path / "checkpoints" / checkpoint_name(1) / "trainer.json").write_text("{")
    checkpoint.apply_retention(tmp_path, CheckpointConfig(keep_last=2, keep_best=1), "bleu")
    assert [path.name for path in list_checkpoints(tmp_path)] == [checkpoint_name(step) for step in (2, 3)]


def test_a_run_without_checkpoints_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none has been published"):
        checkpoint.newest_checkpoint(tmp_path)
