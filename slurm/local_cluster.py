"""A real SLURM of two nodes on this machine, without systemd and cgroups: for tests, for `make slurm-demo`, to try out.

    python slurm/local_cluster.py start FOLDER    starts it; prints the variable that SLURM's commands need
    python slurm/local_cluster.py stop FOLDER     ends it with all its jobs
    python slurm/local_cluster.py demo FOLDER [key=value …]
        starts it, trains with these settings, preempts, shows status, waits for the end, stops it

Needs root and Debian's packages slurm-wlm and munge. Everything it writes is in FOLDER, and its ports are free ones,
so that it does not disturb another SLURM. The nodes n1 and n2 share this machine; the partition `high` preempts `main`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SECONDS_TO_START = 30
ROOT = Path(__file__).parents[1]
QUICKSTART = ("run.directory=runs/slurm_demo", "checkpoint.every_steps=50")

CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
# How long a credential lives is also how long a requeued job waits.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
JobRequeue=1
KillWait=30
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=UNLIMITED PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=UNLIMITED PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why this machine cannot run such a SLURM and what it needs, or None if it can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if lacking:
        return f"a SLURM to test on needs {', '.join(lacking)}: `apt-get install slurm-wlm munge`"
    return None if os.geteuid() == 0 else "a SLURM to test on needs root, to start its daemons"


class LocalCluster:
    """The daemons whose files are in `folder`. They are found by these files, so any process can stop them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.configuration = self.folder / "slurm.conf"
        self.environment: Mapping[str, str] = os.environ | {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }

    def start(self) -> None:
        """Starts all daemons, after ending and removing what an earlier start left in the folder."""
        self.stop()
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.configuration.write_text(
            CONFIGURATION.format(folder=self.folder, host=socket.gethostname().split(".")[0], ports=_free_ports(3))
        )
        self._start_munge()
        self._daemon("slurmctld", "-c", "-f", str(self.configuration))
        for node in NODES:
            self.start_node(node, "-c")
        wait_for(self._is_idle, SECONDS_TO_START, "the two nodes of SLURM never became idle")

    def start_node(self, node: str, *options: str) -> None:
        """Starts the slurmd of a node."""
        self._daemon("slurmd", *options, "-N", node, "-f", str(self.configuration))

    def kill_node(self, node: str) -> None:
        """Kills the slurmd of a node, as a crash would; the steps of jobs live on."""
        self._signal(self.folder / f"slurmd.{node}.pid", signal.SIGKILL)

    def stop(self) -> None:
        """Cancels all jobs, ends all daemons and removes their files."""
        if not self.folder.exists():
            return
        if (self.folder / "slurmctld.pid").exists():
            with suppress(subprocess.SubprocessError):
                self.run("scancel", "--user=root", timeout=10, check=False)
                wait_for(lambda: not self.run("squeue", "--noheader", check=False, timeout=5), 60, "jobs remain")
        for path in (self.folder / name for name in ("slurmctld.pid", *(f"slurmd.{node}.pid" for node in NODES))):
            self._signal(path, signal.SIGTERM)
        self._end_steps()
        self._signal(self.folder / "munged.pid", signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str, timeout: float = 60, check: bool = True) -> str:
        """What a command of this SLURM prints."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=check
        ).stdout.strip()

    def state(self, job: str) -> str:
        """A job's state, such as RUNNING."""
        found = self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T", check=False)
        return found.splitlines()[0] if found else "UNKNOWN"

    def _is_idle(self) -> bool:
        return self.run("sinfo", "--noheader", "--partition=main", "--format=%D %t", check=False) == "2 idle"

    def _start_munge(self) -> None:
        """With a key and a socket of its own: it does not matter whether the machine has a munged already."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        files = [f"--{name}={self.folder}/{file}" for name, file in _MUNGE_FILES.items()]
        self._daemon("munged", "--force", *files)

    def _daemon(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            subprocess.run(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=30
            )

    def _signal(self, pid_file: Path, number: int) -> None:
        """Sends a signal to the process of a file, and waits until it has ended."""
        with suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            # A file of an earlier day may name a process of somebody else's.
            if pid_file.name.split(".")[0].encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)
                wait_for(lambda: _has_ended(pid), 20, f"{pid_file.stem} does not end")

    def _end_steps(self) -> None:
        """Kills what still runs for a job of this SLURM: a killed slurmd cannot do it."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_bytes()
                of_a_job = b"\0SLURM_JOB_ID=" in environment or b"slurmstepd" in (process / "cmdline").read_bytes()
                if of_a_job and f"SLURM_CONF={self.configuration}\0".encode() in environment:
                    os.kill(int(process.name), signal.SIGKILL)


_MUNGE_FILES = {
    "key-file": "munge.key",
    "socket": "munge.socket",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _free_ports(number: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(number)]
    try:
        for free in with_sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in with_sockets]
    finally:
        for free in with_sockets:
            free.close()


def wait_for(condition: Callable[[], object], seconds: float, complaint: str) -> None:
    """Waits until the condition holds. Raises TimeoutError with the complaint after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.2)


@contextmanager
def running(folder: Path) -> Iterator[LocalCluster]:
    """The cluster while the block lasts."""
    cluster = LocalCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def demo(folder: Path, changes: Sequence[str] = ()) -> None:
    """Trains the quickstart recipe on both nodes, has another job preempt it, and waits for the end."""
    run, config = Path("runs/slurm_demo"), os.path.relpath(ROOT / "configs" / "quickstart.yaml")
    shutil.rmtree(run, ignore_errors=True)
    dragoman = [sys.executable, "-m", "launch"]
    with running(folder) as cluster:

        def do(*command: str) -> None:
            print(f"\n$ {' '.join(command).replace(' '.join(dragoman), 'dragoman')}", flush=True)
            subprocess.run(command, env=cluster.environment, check=True)

        print(f"a SLURM of two nodes runs in {folder}; in another terminal: export SLURM_CONF={cluster.configuration}")
        do(*dragoman, "submit", config, *QUICKSTART, *changes, "--profile", "local", "--nodes", "2")
        wait_for(lambda: list(run.glob("checkpoints/step-*")), 300, "the run never saved a checkpoint")
        do(*dragoman, "status", str(run))
        do("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 5")
        wait_for(lambda: '"requeue"' in _text(run / "restarts.jsonl"), 120, "the run was not preempted")
        do("squeue")
        do(*dragoman, "status", str(run))
        wait_for(lambda: '"finished"' in _text(run / "state.json"), 600, "the run did not finish")
        wait_for(lambda: not cluster.run("squeue", "--noheader"), 60, "the job did not end")
        do(*dragoman, "status", str(run))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] not in ("start", "stop", "demo"):
        print(__doc__, file=sys.stderr)
        return 2
    word, cluster = sys.argv[1], LocalCluster(Path(sys.argv[2]))
    if word != "stop" and (why := missing()):
        print(why, file=sys.stderr)
        return 2
    if word == "start":
        cluster.start()
        print(f"export SLURM_CONF={cluster.configuration}")
    elif word == "stop":
        cluster.stop()
    else:
        demo(cluster.folder, sys.argv[3:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
