"""Kills a run again and again, and checks that it loses nothing but the work since its newest checkpoint.

    python tests/benchmarks/chaos.py [--kills 50] [--kind ddp] [--processes 2] [--directory DIR] [--seed N]

One small run under `dragoman train`. Each round starts it by the same command and sends SIGKILL to one rank, to all
ranks or to the launcher: every other round inside a save, else anywhere from the start on. After each round, everything
must end by itself; each start must resume from the newest checkpoint published before it, and find none damaged. At the
end the run is brought to its last step and every loss compared with those of an undisturbed run of as many steps: bit
for bit.

Prints the table and, at last, one JSON line. Exit status 1 where anything did not hold.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

TARGETS = ("one rank", "all ranks", "launcher")
SECONDS_TO_START, SECONDS_TO_END = 240, 120
FURTHER_STEPS = 20  # after the last kill

# Large enough that a save takes a while, small enough that a step does not.
CONFIGURATION: dict[str, Any] = {
    "run": {"directory": "set below", "max_steps": 10_000_000},
    "model": {"d_model": 256, "d_ff": 1024, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "tokenizer": {"kind": "bpe", "vocab_size": 1000},
    "data": {
        "train": [{"builtin": "phrasebook", "limit": 5000}],
        "max_length": 48, "max_tokens": 64, "micro_batches_per_step": 4, "num_lanes": 4, "window": 256,
    },
    "optimizer": {"peak_lr": 5.0e-4, "warmup_steps": 100},
    "engine": {"precision": "fp32"},
    "checkpoint": {"every_steps": 8, "keep_last": 2},
    "tracking": {"every_steps": 1, "wandb": {"mode": "disabled"}},
}  # fmt: skip


@dataclass
class Round:
    """One start and its kill.

    `resumed` is the step that the start resumed from (-1: from nothing; None: it was killed before). After the kill,
    `step` is the last one recorded, `newest` the newest checkpoint (-1: none), and `torn` says that it left one
    unpublished.
    """

    target: str
    wanted: str
    step: int
    newest: int
    torn: bool
    seconds_to_end: float
    resumed: int | None = None
    problem: str = ""


class Chaos:
    def __init__(self, folder: Path, kind: str, processes: int, seed: int) -> None:
        self._folder, self._processes, self._draw = folder, processes, random.Random(seed)
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(CONFIGURATION))
        self._changes = [f"engine.kind={kind}", f"data.cache={folder / 'store'}"]
        self._environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._run = folder / "run"

    def command(self, name: str, *changes: str) -> list[str]:
        train = [sys.executable, "-m", "launch", "train", str(self._config), "--processes", str(self._processes)]
        return [*train, *self._changes, f"run.directory={self._folder / name}", *changes]

    def round(self, number: int) -> Round:
        """Starts the run, kills and waits until nothing of it is left."""
        target = TARGETS[number % len(TARGETS)]
        wanted = "in a save" if number % 2 else self._draw.choice(["start", "step"])
        before, began, log = newest_checkpoint(self._run), time.time(), self._folder / f"round-{number}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                self.command("run"), stderr=stderr, env=self._environment, start_new_session=True
            )
        self._wait_for_moment(wanted, process)
        workers = _workers(process)
        for pid in self._victims(target, process, workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        problem = self._wait_for_end(process, workers)
        seconds = time.monotonic() - killed
        problem = problem or _problem_of_start(log.read_text(), before)
        torn = any(path.stat().st_mtime > began for path in (self._run / "checkpoints").glob(".tmp-*"))
        found = Round(target, wanted, last_step(self._run), newest_checkpoint(self._run), torn, seconds)
        found.problem, found.resumed = problem, _resumed(log.read_text())
        return found

    def _victims(self, target: str, process: "subprocess.Popen[bytes]", workers: list[psutil.Process]) -> list[int]:
        if target == "launcher" or not workers:
            return [process.pid]
        pids = [worker.pid for worker in workers]
        return pids if target == "all ranks" else [self._draw.choice(pids)]

    def _wait_for_moment(self, wanted: str, process: "subprocess.Popen[bytes]") -> None:
        if wanted == "start":
            time.sleep(self._draw.uniform(0.5, 8))
            return
        step = last_step(self._run)
        _wait(lambda: last_step(self._run) != step or process.poll() is not None, SECONDS_TO_START)
        if wanted == "in a save":
            checkpoints, since = self._run / "checkpoints", newest_checkpoint(self._run)
            later = since + self._draw.randrange(3) * CONFIGURATION["checkpoint"]["every_steps"]
            _wait(lambda: newest_checkpoint(self._run) >= later or process.poll() is not None, SECONDS_TO_START)
            _wait(lambda: any(checkpoints.glob(".tmp-*")) or process.poll() is not None, SECONDS_TO_START, pause=0.001)
            time.sleep(self._draw.uniform(0, 0.15))
        else:
            time.sleep(self._draw.uniform(0, 3))

    @staticmethod
    def _wait_for_end(process: "subprocess.Popen[bytes]", workers: list[psutil.Process]) -> str:
        try:
            process.wait(SECONDS_TO_END)
            _wait(lambda: not any(map(_is_alive, workers)), SECONDS_TO_END)
        except (subprocess.TimeoutExpired, TimeoutError):
            os.killpg(process.pid, signal.SIGKILL)
            for worker in filter(_is_alive, workers):
                worker.kill()
            return "something was still alive"
        return ""

    def finish(self) -> tuple[int, list[str]]:
        """The last step of both runs, and what differs between them."""
        last = last_step(self._run) + FURTHER_STEPS
        problems = []
        for name in ("run", "undisturbed"):
            ended = subprocess.run(
                self.command(name, f"run.max_steps={last}"), env=self._environment, capture_output=True, text=True
            )
            if ended.returncode != 0:
                problems.append(f"{name} ended with {ended.returncode}: {ended.stderr[-500:]}")
        disturbed, undisturbed = (_losses(self._folder / name) for name in ("run", "undisturbed"))
        if [step for step, _ in disturbed] != list(range(1, last + 1)):
            problems.append("steps are missing or twice")
        different = [step for (step, a), (_, b) in zip(disturbed, undisturbed, strict=False) if a != b]
        if different or len(disturbed) != len(undisturbed):
            problems.append(f"other losses than undisturbed from step {different[:1] or 'of its end'} on")
        return last, problems


def newest_checkpoint(run: Path) -> int:
    """The step of the newest published checkpoint, -1 without any."""
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")]
    return max(steps, default=-1)


def _losses(run: Path) -> list[tuple[int, float]]:
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def last_step(run: Path) -> int:
    return _losses(run)[-1][0] if (run / "metrics.jsonl").exists() and _losses(run) else 0


def _resumed(log: str) -> int | None:
    """The step that a start resumed from, or None if it was killed before it printed that."""
    found = re.search(r"resumed from step ([\d,]+)", log)
    if found:
        return int(found[1].replace(",", ""))
    return -1 if "starting fresh" in log else None


def _problem_of_start(log: str, newest: int) -> str:
    if "damaged" in log:
        return "a checkpoint was called damaged"
    resumed = _resumed(log)
    return "" if resumed in (None, newest) else f"resumed from {resumed} instead of {newest}"


def _workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The ranks that there are already."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
        try:
            if "dragoman_script" in child.cmdline() and "torch.distributed.run" not in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _wait(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause)


def _row(number: int, found: Round) -> str:
    resumed = "-" if found.resumed is None else found.resumed
    return (
        f"{number:>4}  {resumed:>7}  {found.target:<9}  {found.wanted:<9}  {found.step:>6}  {found.newest:>6}  "
        f"{'torn' if found.torn else '':<4}  {found.seconds_to_end:>6.1f}  {found.problem}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kind", choices=("ddp", "zero1", "zero2", "zero3"), default="ddp")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="where to run (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        chaos, rounds = Chaos(Path(folder), arguments.kind, arguments.processes, arguments.seed), list[Round]()
        print("kill  resumed  target     wanted     step    newest        seconds to end")
        for number in range(1, arguments.kills + 1):
            rounds.append(chaos.round(number))
            print(_row(number, rounds[-1]), flush=True)
        last, problems = chaos.finish()
    problems += [found.problem for found in rounds if found.problem]
    report = {
        "kind": arguments.kind, "processes": arguments.processes, "kills": arguments.kills,
        "wanted_in_a_save": sum(found.wanted == "in a save" for found in rounds),
        "torn_saves": sum(found.torn for found in rounds),
        "median_seconds_to_end": statistics.median(found.seconds_to_end for found in rounds),
        "max_seconds_to_end": max(found.seconds_to_end for found in rounds),
        "last_step": last, "problems": problems, "rounds": [asdict(found) for found in rounds],
    }  # fmt: skip
    print(json.dumps(report))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
