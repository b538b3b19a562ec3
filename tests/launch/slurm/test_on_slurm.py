"""Runs on a real SLURM of two nodes: preempted, killed, out of time, cancelled, and on one node instead of two."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.slurm.restarts import read_decisions
from slurm.local_cluster import LocalCluster, missing, wait_for
from tests.limits import patience
from tests.offline_wandb import history
from tests.runs import CONFIGURATION, Runs
from trainer.run_directory.layout import checkpoint_step, list_checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(patience(900)),
    pytest.mark.skipif(missing() is not None, reason=f"no run on SLURM was tried: {missing()}"),
]

ROOT = Path(__file__).parents[3]
README = ROOT / "slurm" / "README.md"
FOR_EVER = 1_000_000
# What a shell has inside a job; srun would refuse to start with it.
INSIDE_A_JOB = {"SLURM_JOB_ID": "99", "SLURM_MEM_PER_CPU": "100", "SLURM_GPUS_PER_NODE": "2"}
STEPS_ON_ONE_NODE = 20  # another number of processes rounds otherwise, and what it changes grows


Recipe = dict[str, Any]


def phrasebook() -> Recipe:
    # A step takes long enough that SLURM acts before there are too many to repeat undisturbed.
    return CONFIGURATION | {"data": CONFIGURATION["data"] | {"max_tokens": 512}}


def multi30k() -> Recipe:
    folder = os.environ.get("DRAGOMAN_DATA")
    if folder is None:
        pytest.skip("DRAGOMAN_DATA is not set: Multi30k was not trained on SLURM")
    recipe: Recipe = yaml.safe_load((ROOT / "configs" / "multi30k_en_de.yaml").read_text())
    for corpus in (*recipe["data"]["train"], *recipe["data"]["valid"]):
        for side in ("source", "target"):
            corpus[side] = str(Path(folder) / Path(corpus[side]).relative_to("data"))
    recipe["evaluation"]["max_sentences"] = 8
    return recipe | {"tracking": CONFIGURATION["tracking"]}


class Runner:
    """One small run, submitted to the cluster as a user would."""

    name = "my 100% run"

    def __init__(self, folder: Path, cluster: LocalCluster, recipe: Recipe) -> None:
        self.cluster, self.runs = cluster, Runs(folder, recipe)
        self.run = folder / self.name
        self.changes = ["engine.kind=zero2", "engine.precision=fp32", "checkpoint.every_steps=10"]

    def submit(self, nodes: int, max_steps: int) -> str:
        """Submits the run from inside another job. Returns the new job's id."""
        changes = self.runs.changes(
            self.name, *self.changes, f"run.max_steps={max_steps}", "tracking.wandb.mode=offline"
        )
        command = [sys.executable, "-m", "launch", "submit", str(self.runs.config), *changes, "--profile", "local"]
        told = subprocess.run(
            [*command, "--nodes", f"{nodes}"],
            env={**self.cluster.environment, "PYTHONPATH": str(ROOT), **INSIDE_A_JOB},
            cwd=self.runs.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        return told.stdout.split()[1].rstrip(":")

    @property
    def step(self) -> int:
        """The newest step in `metrics.jsonl`."""
        steps = self.runs.steps(self.name) if (self.run / "metrics.jsonl").exists() else []
        return int(steps[-1]["step"]) if steps else 0

    def decisions(self, word: str = "requeue") -> list[dict[str, Any]]:
        return [record for record in read_decisions(self.run) if record["decision"] == word]

    def wait_for_more_steps(self, job: str, number: int = 5) -> None:
        first = self.step
        self._wait(lambda: self.cluster.state(job) == "RUNNING" and self.step >= first + number, "no more steps")

    def wait_for_requeue(self, number: int) -> dict[str, Any]:
        self._wait(lambda: len(self.decisions()) >= number, f"no requeue number {number}")
        return self.decisions()[-1]

    def wait_for_requeue_after(self, reason: str, number: int) -> None:
        """Waits for a requeue with this reason beyond the first `number`."""
        self._wait(lambda: any(reason in d["reason"] for d in self.decisions()[number:]), f"no requeue: {reason}")

    def wait_for_end(self, job: str, state: str) -> None:
        self._wait(lambda: self.cluster.state(job) == state, f"not {state}")

    def _wait(self, condition: Any, complaint: str) -> None:
        try:
            wait_for(condition, patience(240), complaint)
        except TimeoutError as error:
            logs = "".join(path.read_text()[-4000:] for path in self.run.glob("slurm/job-*.log"))
            raise AssertionError(
                f"{error}\n{self.cluster.run('squeue')}\n{read_decisions(self.run)}\n{logs}"
            ) from error

    def worker(self, rank: int) -> int:
        """The process id of a rank."""
        mark, number = f"{self.run}/slurm/config.yaml".encode(), f"\0RANK={rank}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if mark in words and number in (process / "environ").read_bytes():
                    return int(process.name)
        raise AssertionError(f"rank {rank} is not there")


def local_cluster(word: str, folder: Path) -> str:
    """Runs the command of slurm/README.md that starts or stops a SLURM; what it prints."""
    (line,) = re.findall(rf"^python (slurm/local_cluster.py {word}) /tmp/slurm$", README.read_text(), re.M)
    command = [sys.executable, *line.split(), str(folder)]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=patience(120), check=True
    ).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    started = LocalCluster(folder)
    try:
        told = local_cluster("start", folder)
        assert told == f"export SLURM_CONF={started.configuration}\n"
        yield started
    finally:
        local_cluster("stop", folder)


@pytest.mark.parametrize("recipe", [phrasebook, multi30k])
def test_a_run_that_meets_everything_ends_as_if_nothing_had_happened(
    recipe: Callable[[], Recipe], tmp_path: Path, cluster: LocalCluster
) -> None:
    runner = Runner(tmp_path, cluster, recipe())
    job = runner.submit(2, FOR_EVER)
    runner.wait_for_more_steps(job)

    cluster.run("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=true")
    assert "stopped by SIGUSR1" in runner.wait_for_requeue(1)["reason"]
    runner.wait_for_more_steps(job)

    os.kill(runner.worker(1), signal.SIGKILL)
    assert runner.wait_for_requeue(2)["crash"] is not None
    runner.wait_for_more_steps(job, 11)

    cluster.kill_node("n2")
    runner.wait_for_more_steps(job)
    cluster.start_node("n2")

    # On a slow machine SLURM may have missed the node and requeue the job for that, too, now or in a moment.
    num_requeues = len(runner.decisions())
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    runner.wait_for_requeue_after("stopped by SIGUSR1", num_requeues)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    runner.wait_for_more_steps(job)

    # On one node instead of two, by `dragoman submit` alone.
    cluster.run("scancel", job)
    runner.wait_for_end(job, "CANCELLED")
    assert "cancelled" in runner.decisions("stop")[-1]["reason"]
    kept = checkpoint_step(list_checkpoints(runner.run)[-1])
    assert kept >= runner.decisions()[-1]["step"]
    last = kept + STEPS_ON_ONE_NODE
    second = runner.submit(1, last)
    runner.wait_for_end(second, "COMPLETED")
    assert runner.decisions("stop")[-1]["reason"] == "finished"

    expected = runner.runs.finished("undisturbed", *runner.changes, f"run.max_steps={last}", processes=2)
    found = runner.runs.steps(runner.name)
    assert [step["step"] for step in found] == list(range(1, last + 1))
    for one, other in zip(found, expected, strict=True):
        for key in ("loss", "nll"):
            assert one[key] == pytest.approx(other[key], rel=1e-5, abs=0), (one["step"], key)
    assert len({(path.name.rpartition("-")[2]) for path in (runner.run / "wandb").glob("offline-run-*")}) == 1
    tracked = {int(float(record["step"])) for record in history(runner.run) if "step" in record}
    assert tracked >= set(range(1, last + 1))


def test_the_demonstration(tmp_path: Path) -> None:
    """`make slurm-demo`, shorter."""
    told = subprocess.run(["make", "--dry-run", "slurm-demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = next(shlex.split(line) for line in told.stdout.splitlines() if "local_cluster.py" in line)
    assert words[2] == "demo"
    short = ["run.max_steps=24", "checkpoint.every_steps=8", "evaluation.max_sentences=4"]
    command = [sys.executable, str(ROOT / words[1]), "demo", str(tmp_path / "cluster"), *short]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "stopped: SIGUSR1; it has been saved" in ended.stdout
    assert "24 of 24" in ended.stdout
    assert "finished" in ended.stdout.rpartition("$ ")[2]
    assert not (tmp_path / "cluster").exists()
