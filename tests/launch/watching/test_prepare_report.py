"""`dragoman prepare` as a command: what it says, and that its result is the same whatever happens to it."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from launch.watching.prepare_report import _store
from trainer.data.stores.store import Manifest, Store, Table

ROOT = Path(__file__).parents[3]
NUM_PAIRS = 12_000
PART_PAIRS = 100
SECONDS = 120.0
# The command, with parts so small that a test has many.
COMMAND = f"""
import sys
from launch.cli import main
from trainer.data.preparation import part_workers
part_workers.PART_PAIRS = {PART_PAIRS}
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
    for n in draw.sample(range(NUM_PAIRS), 500):
        lines[n] = draw.choice(["", "2 + 3 =", "same", lines[n - 1], lines[0] * 30])
    (folder / "train.en").write_text("".join(f"{line}\n" for line in lines))
    (folder / "train.de").write_text("".join(f"{line[::-1] if line != 'same' else line}\n" for line in lines))
    corpus = {"source": str(folder / "train.en"), "target": str(folder / "train.de"), "name": "text"}
    data = {"train": [corpus], "max_length": 64, "max_tokens": 256}
    (folder / "config.yaml").write_text(yaml.safe_dump({"tokenizer": {"vocab_size": 400}, "data": data}))
    (folder / "command.py").write_text(COMMAND)
    return folder


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a preparation into `tmp_path/name`; none outlives the test."""
    processes = []

    def start(name: str, *changes: str, workers: int = 2) -> "subprocess.Popen[str]":
        arguments = [f"run.directory={tmp_path / name}", *changes, "--workers", str(workers)]
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
def test_kills_at_any_moment_change_nothing_and_cost_no_finished_part(start: Start, tmp_path: Path, mode: str) -> None:
    output = finish(start("undisturbed", f"data.mode={mode}", workers=1))
    for said in ("duplicate", "empty source", "few letters", "copy"):
        assert re.search(rf"left out, {said}: \d+ pairs \(\d\.\d\d%\), such as\n    .+  \|  ", output), output
    assert re.search(r"ready: \d+,\d{3} pairs to train on\n$", output)

    cache = tmp_path / "killed" / "data"
    kept: dict[Any, Any] = {}
    num_parts = NUM_PAIRS // PART_PAIRS
    counts = sorted(random.sample(range(1, num_parts - 20), 3))
    for count in counts:
        process = start("killed", f"data.mode={mode}")
        wait_for_parts(process, cache, count)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        found = {path.name: path.stat().st_ino for path in parts_of(cache)}
        assert kept.items() <= found.items(), f"a finished part was made again, killed at {counts}"
        assert len(found) >= count
        kept = found
    finish(start("killed", f"data.mode={mode}"))
    assert content(cache) == content(tmp_path / "undisturbed" / "data")


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_next_start_goes_on(start: Start, tmp_path: Path) -> None:
    process = start("run")
    wait_for_parts(process, tmp_path / "run" / "data", 10)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    assert "a process that prepared the data died" in errors
    assert "Traceback" not in errors
    assert len(parts_of(tmp_path / "run" / "data")) >= 10
    finish(start("run"))
    assert not parts_of(tmp_path / "run" / "data")


@pytest.mark.slow
def test_two_runs_may_prepare_the_same_data_at_once(start: Start, tmp_path: Path) -> None:
    alone, shared = f"data.cache={tmp_path / 'alone'}", f"data.cache={tmp_path / 'shared'}"
    finish(start("undisturbed", alone))
    both = [start(name, shared) for name in ("one", "two")]
    assert sum("(was there already)" in finish(process) for process in both) == 1
    assert content(tmp_path / "shared") == content(tmp_path / "alone")


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_is_finished_stays(start: Start, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "none", disk]).returncode:
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
        finish(start("undisturbed"))
        assert content(disk) == content(tmp_path / "undisturbed" / "data")
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_bad_text_is_one_sentence_and_leaves_nothing(start: Start, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.en"
    bad.write_bytes((folder / "train.en").read_bytes().rpartition(b"\n")[0] + b" \xff\n")
    process = start("run", f"data.train.0.source={bad}")
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert f"{bad}, line {NUM_PAIRS}: byte 0xff is not valid UTF-8" in errors
    assert not (tmp_path / "run").exists()


def test_text_that_was_left_out_cannot_act_on_the_terminal() -> None:
    manifest = Manifest(
        name="text", kind="text", fingerprint="", num_pairs=1, num_source_items=1, num_target_items=1,
        rejected={"copy": 1}, examples={"copy": [["a\x1b[2J\tb", ""]]}, dtype="uint8", files={},
    )  # fmt: skip
    empty = Table(np.empty(0, np.uint8), np.zeros(1, np.int64))
    *_, example = _store(Store(Path("store"), manifest, empty, empty), reused=False)
    assert example.strip() == r"a\x1b[2J b  |  (empty)"
