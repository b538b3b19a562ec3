"""What a rank says is kept, reaches the user as before, and costs nothing where it cannot be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.run_directory.layout import log_path
from trainer.run_directory.rank_log import RankLog, last_lines

SPEAKER = """
import os, sys
from pathlib import Path
from trainer.run_directory.rank_log import RankLog
print("before", flush=True)
with RankLog(Path(sys.argv[1]), int(sys.argv[2]), 4) as log:
    print("by Python", file=sys.stderr)
    print("on stdout")
    os.write(2, b"by C\\n")
    if sys.argv[3] == "abort":
        os.abort()
    log.reporting(lambda message: print(message, file=sys.stderr))("hung")
print("after", file=sys.stderr)
"""


def speak(folder: Path, rank: int, end: str = "") -> tuple[str, list[str]]:
    """What the user and the log got; without the header."""
    ended = subprocess.run(
        [sys.executable, "-c", SPEAKER, str(folder), str(rank), end],
        cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return ended.stdout, log_path(folder, rank).read_text().splitlines()[1:]


def test_what_rank_0_says_reaches_the_user_once_and_is_kept(tmp_path: Path) -> None:
    shown, kept = speak(tmp_path, 0)
    assert sorted(shown.splitlines()) == sorted(["before", "by Python", "on stdout", "by C", "hung", "after"])
    assert kept == ["by Python", "hung"]


def test_the_other_ranks_speak_into_their_logs_until_they_have_to_tell_the_user(tmp_path: Path) -> None:
    shown, kept = speak(tmp_path, 3)
    assert shown.splitlines() == ["before", "hung", "after"]
    assert sorted(kept) == sorted(["by Python", "on stdout", "by C", "hung"])


def test_the_last_words_of_an_aborted_rank_are_in_its_log(tmp_path: Path) -> None:
    shown, kept = speak(tmp_path, 1, "abort")
    assert shown == "before\n"
    assert "by C" in kept
    assert "Fatal Python error: Aborted" in kept


def test_each_start_has_a_header_and_each_failure_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(UserError), RankLog(tmp_path, 0, 2):
        raise UserError("wrong.")
    with pytest.raises(ZeroDivisionError), RankLog(tmp_path, 0, 2):
        raise ZeroDivisionError("x")
    lines = log_path(tmp_path, 0).read_text().splitlines()
    assert [line.startswith("=== ") for line in lines[:3]] == [True, False, True]
    assert lines[0].endswith(f"rank 0 of 2, process {os.getpid()} on {os.uname().nodename}, SLURM job 17")
    assert lines[1] == "dragoman: wrong."
    assert (lines[3], lines[-1]) == ("Traceback (most recent call last):", "ZeroDivisionError: x")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_folder_that_cannot_be_written_costs_one_line(
    tmp_path: Path, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").touch()
    with RankLog(tmp_path, rank, 2) as log:
        log.keep("lost")
        print("told", file=sys.stderr)
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1] == "told"
    assert len(shown) == (2 if rank == 0 else 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_stops_nobody(tmp_path: Path, rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    log_path(tmp_path, rank).symlink_to("/dev/full")
    with RankLog(tmp_path, rank, 2) as log:
        log.keep("lost")
        print("said", file=sys.stderr)
        sys.stderr.flush()
    assert capfd.readouterr().err == ("said\n" if rank == 0 else "")


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    assert last_lines(tmp_path, 0, 3) == []
    with RankLog(tmp_path, 0, 1) as log:
        for number in range(10_000):
            log.keep(f"line {number}")
    assert last_lines(tmp_path, 0, 2) == ["line 9998", "line 9999"]
    assert last_lines(tmp_path, 0, 0) == []
