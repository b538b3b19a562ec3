"""The sharded state: readable by any number of ranks."""

from pathlib import Path

import pytest
import torch

from tests.trainer.checkpoints.small_state import SIZES, OneOfMany, parameter, publish
from trainer.checkpoints import directory as checkpoint
from trainer.checkpoints.state_files import FragmentFiles, HostCopy


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_slice_reads_back_whatever_the_number_of_writers(tmp_path: Path, world_size: int) -> None:
    (tmp_path / "state").mkdir()
    paths = []
    for rank in range(world_size):
        copy = HostCopy()
        copy.take(OneOfMany(rank, world_size).fragments())
        paths.append(copy.write(tmp_path, rank, world_size))
    files = FragmentFiles(paths, num_updates=7)
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


def test_only_files_of_the_manifest_are_read(tmp_path: Path) -> None:
    """macOS writes `._NAME` next to NAME on foreign file systems; it is no safetensors file."""
    path = publish(tmp_path)
    (path / "state" / "._rank-00000-of-00001.safetensors").write_bytes(b"\x00\x05\x16\x07")
    files = checkpoint.fragment_files(path)
    assert torch.equal(files.read("b.bias", "weight", 0, 3), parameter("b.bias", "weight"))
