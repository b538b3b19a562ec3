"""`dragoman prepare` as a command: what it says, and that its result is the same whatever happens to it."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from launch.cli import main
from launch.watching.prepare_report import _store
from trainer.data.stores.store import Manifest, Store, Table

ROOT = Path(__file__).parents[3]
NUM_PAIRS = 4_000
PART_PAIRS = 100
SECONDS = 120.0
# The command, with parts so small that a test has many, and each so slow that a kill comes before the last one.
COMMAND = f"""
import sys
import time
from launch.cli import main
from trainer.data.preparation import part_workers
from trainer.data.preparation.raw_parts import PartFile

def write(file, part, dtype):
    time.sleep(0.02)
    write_at_once(file, part, dtype)

part_workers.PART_PAIRS = {PART_PAIRS}
write_at_once, PartFile.write = PartFile.write, write
if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
"""
WORDS = ["".join(random.Random(n).choices("aeioubdfglmnrst", k=6)) for n in range(300)]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text with pairs of every kind that is left out, the command, and a configuration that lacks only its folders."""
    folder = tmp_path_factory.mktemp("preparation")
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(NUM_PAIRS)]
    for n in draw.sample(range(NUM_PAIRS), 300):
        lines[n] = draw.choice(["", "2 + 3 =", "same", lines[n - 1], lines[0] * 30])
    (folder / "train.en").write_text("".join(f"{line}\n" for line in lines))
    (folder / "train.de").write_text("".join(f"{line[::-1] if line != 'same' else line}\n" for line in lines))
    corpus = {"source": str(folder / "train.en"), "target": str(folder / "train.de"), "name": "text"}
    data = {"train": [corpus], "max_length": 64, "max_tokens": 256}
    (folder / "config.yaml").write_text(yaml.safe_dump({"tokenizer": {"vocab_size": 400}, "data": data}))
    (folder / "command.py").write_text(COMMAND)
    return folder


@pytest.fixture(scope="module")
def starting(folder: Path) -> Iterator[Start]:
    """Starts a preparation into a folder; none outlives the tests."""
    processes = []

    def start(run: Path, *changes: str, workers: int = 2) -> "subprocess.Popen[str]":
        arguments = [f"run.directory={run}", *changes, "--workers", str(workers)]
        process = subprocess.Popen(
            [sys.executable, folder / "command.py", folder / "config.yaml", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start(starting: Start, tmp_path: Path) -> Start:
    """Starts a preparation into `tmp_path/name`."""
    return lambda name, *changes, **options: starting(tmp_path / name, *changes, **options)


Undisturbed = Callable[[str], tuple[str, dict[str, bytes]]]


@pytest.fixture(scope="module")
def undisturbed(starting: Start, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What a preparation in a mode prints and writes if nothing happens to it; each runs once."""

    @functools.cache
    def prepared(mode: str) -> tuple[str, dict[str, bytes]]:
        run = tmp_path_factory.mktemp("undisturbed") / mode
        return finish(starting(run, f"data.mode={mode}", workers=1)), content(run / "data")

    return prepared


def parts_of(cache: Path) -> list[Path]:
    return sorted(cache.glob(".parts-*/part-*"))


def wait_for_parts(process: "subprocess.Popen[str]", cache: Path, count: int) -> None:
    limit = time.monotonic() + SECONDS
    while len(parts_of(cache)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.001)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["store", "stream"])
def test_it_says_what_was_left_out(undisturbed: Undisturbed, mode: str) -> None:
    output, _ = undisturbed(mode)
    for reason in ("duplicate", "empty source", "few letters", "copy"):
        assert re.search(rf"left out, {reason}: \d+ pairs \(\d\.\d\d%\), such as\n    .+  \|  ", output), output
    assert re.search(r"ready: \d,\d{3} pairs to train on\n$", output)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "num_kills"), [("store", 2), ("stream", 1)])
def test_kills_at_any_moment_change_nothing_and_cost_no_finished_part(
    start: Start, undisturbed: Undisturbed, tmp_path: Path, mode: str, num_kills: int
) -> None:
    """First of the whole preparation, at last of one of its workers."""
    cache = tmp_path / "killed" / "data"
    kept: dict[str, int] = {}
    counts = sorted(random.sample(range(1, NUM_PAIRS // PART_PAIRS - 20), num_kills + 1))
    for number, count in enumerate(counts):
        process = start("killed", f"data.mode={mode}")
        wait_for_parts(process, cache, max(count, len(kept) + 1))
        of_a_worker = number == num_kills
        os.kill(workers_of(process)[0] if of_a_worker else process.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == (75 if of_a_worker else -signal.SIGKILL)
        assert ("a process that prepared the data died" in errors) == of_a_worker
        assert "Traceback" not in errors
        found = {path.name: path.stat().st_ino for path in parts_of(cache)}
        assert kept.items() <= found.items(), f"a finished part was made again, killed at {counts}"
        assert len(found) >= count
        kept = found
    finish(start("killed", f"data.mode={mode}"))
    assert content(cache) == undisturbed(mode)[1]


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_two_runs_may_prepare_the_same_data_at_once(start: Start, undisturbed: Undisturbed, tmp_path: Path) -> None:
    both = [start(name, f"data.cache={tmp_path / 'shared'}") for name in ("one", "two")]
    assert sum("(was there already)" in finish(process) for process in both) == 1
    assert content(tmp_path / "shared") == undisturbed("store")[1]


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_is_finished_stays(start: Start, undisturbed: Undisturbed, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk]).returncode:
        pytest.skip("the full disk was not run: mounting a small tmpfs needs root")
    try:
        process = start("run", f"data.cache={disk}")
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 2
        assert f"no space left in {disk}" in errors
        assert "Traceback" not in errors
        assert len(parts_of(disk)) > 3
        assert not list(disk.rglob(".tmp-*"))
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        finish(start("run", f"data.cache={disk}"))
        assert content(disk) == undisturbed("store")[1]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_bad_text_is_one_sentence_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.en"
    bad.write_bytes((folder / "train.en").read_bytes().rpartition(b"\n")[0] + b" \xff\n")
    changes = [f"run.directory={tmp_path / 'run'}", f"data.train.0.source={bad}"]
    assert main(["prepare", str(folder / "config.yaml"), *changes, "--workers", "1"]) == 2
    assert f"{bad}, line {NUM_PAIRS}: byte 0xff is not valid UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_text_that_was_left_out_cannot_act_on_the_terminal() -> None:
    manifest = Manifest(
        name="text", kind="text", fingerprint="", num_pairs=1, num_source_items=1, num_target_items=1,
        rejected={"copy": 1}, examples={"copy": [["a\x1b[2J\tb", ""]]}, dtype="uint8", files={},
    )  # fmt: skip
    empty = Table(np.empty(0, np.uint8), np.zeros(1, np.int64))
    *_, example = _store(Store(Path("store"), manifest, empty, empty), reused=False)
    assert example.strip() == r"a\x1b[2J b  |  (empty)"
