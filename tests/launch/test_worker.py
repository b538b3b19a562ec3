"""A worker that any launcher started tells a user's mistake as the command line does."""

import json
from pathlib import Path

import pytest

from launch import worker
from launch.worker import FAILURE_FILE, LAUNCH_FOLDER, main

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "`python -m launch.worker CONFIG"),
        (["--local_rank=0"], "`python -m launch.worker CONFIG"),  # what `deepspeed` adds
        (["--local_rank=0", QUICKSTART, "run.sede=1"], "did you mean `run.seed`?"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LAUNCH_FOLDER, raising=False)
    monkeypatch.setattr("sys.argv", ["worker", *arguments])
    assert main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dragoman: ")
    assert errors.count("\n") == 1
    assert part in errors


def test_the_first_failure_of_a_launch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH_FOLDER, str(tmp_path))
    monkeypatch.setattr(worker, "join", lambda folder: None)
    monkeypatch.setattr(worker, "SECONDS_TO_BE_ENDED", 0)
    for arguments in ([QUICKSTART, "run.sede=1"], ["nowhere.yaml"]):
        monkeypatch.setattr("sys.argv", ["worker", *arguments])
        assert main() == 2
    failure = json.loads((tmp_path / FAILURE_FILE).read_text())
    assert failure["status"] == 2
    assert "run.sede" in failure["message"]
