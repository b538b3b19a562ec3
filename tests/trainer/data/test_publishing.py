import errno
import os
from pathlib import Path

import pytest

from trainer.data.publishing import explaining_full_disk, publish_file
from trainer.errors import UserError


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_file(tmp_path / "new" / "file", b"first")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"no space left in .*new"):
        publish_file(tmp_path / "new" / "file", b"second")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"first"]


def test_other_failures_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), explaining_full_disk(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
