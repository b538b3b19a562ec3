"""Checkpoints: published whole or not at all, never read from outside their directory."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.checkpoints.small_state import SIZES, parameter, publish
from trainer.checkpoints import directory as checkpoint
from trainer.errors import UserError
from trainer.run_directory.layout import list_checkpoints


def files_of(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_published_checkpoint_has_the_documented_files_and_verifies(tmp_path: Path) -> None:
    path = publish(tmp_path, 10_000)
    state = "state/rank-00000-of-00001.safetensors"
    assert path == tmp_path / "checkpoints" / "step-00010000"
    assert files_of(path) == {state, "trainer.json", "lanes.json", "manifest.json"}
    assert checkpoint.verify(path) == []
    assert checkpoint.newest_checkpoint(tmp_path) == path


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
        (lambda path: (path / "manifest.json").write_text('{"format": 0, "files": {}}'), "format 0"),
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


def test_what_a_kill_left_is_never_listed_and_is_removed(tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    shutil.copytree(path, path.with_name(".tmp-step-00000002"))
    shutil.copytree(path, path.with_name(".old-step-00000003"))
    assert list_checkpoints(tmp_path) == [path]
    checkpoint.remove_leftovers(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == [path]


def test_a_run_without_checkpoints_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none has been published"):
        checkpoint.newest_checkpoint(tmp_path)
