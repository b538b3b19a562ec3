"""Commands work without standard input, output or error."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch import HOME

QUICKSTART = HOME / "configs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("command", "status"), [(f"config {QUICKSTART} <&- >&- 2>&-", 0), ("config nowhere.yaml 2>&-", 2)]
)
def test_closed_streams_change_no_exit_status(command: str, status: int) -> None:
    ended = subprocess.run(["bash", "-c", f"{sys.executable} -m launch {command}"], cwd=HOME, check=False)
    assert ended.returncode == status


def test_a_file_that_is_opened_later_does_not_become_standard_output(tmp_path: Path) -> None:
    code = (
        "import os, sys; from launch.processes.standard_streams import open_missing; open_missing();"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); print('lost', flush=True); os.write(1, b'lost');"
        "sys.stdin.read(); assert file.fileno() > 2"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" <&- >&-', code], cwd=HOME, check=True)
    assert (tmp_path / "file").read_text() == ""
