"""Runs several worker processes on this machine: starts them through torchrun and watches them until they end."""

import contextlib
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from launch import HOME
from launch.failure import Failure
from launch.worker_failures import LAUNCH_FOLDER, has_failed, read_first_failure, read_process_ids
from trainer.errors import ExitStatus
from trainer.run_directory.stop_reason import STOP_SIGNALS, stop_signals

POLL_SECONDS = 0.1
# Not `launch.worker`: PYTHONPATH may hold a module `launch` of the user's, see `dragoman_script`.
WORKER = ("-m", "dragoman_script", "worker")
# One Ctrl-C asks the loop to save and stop, two stop it at once, three kill workers that do not react.
INTERRUPTS_TO_KILL = 3


def visible_gpus() -> int:
    """The number of CUDA devices that a new process would see. Does not import torch."""
    devices = glob.glob("/dev/nvidia[0-9]*")
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices or chosen is None:
        return len(devices)
    return len([device for device in chosen.split(",") if device.strip() not in ("", "-1")])


def prepare_environment(processes: int, on_cpu: bool) -> None:
    """Sets, for this process and those it starts, what libraries read from the environment before they are imported."""
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for a GPU, or a compiler, by itself
    if processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))


def run_workers(arguments: Sequence[str], processes: int) -> Failure | None:
    """Runs `launch.worker` with these arguments in `processes` processes until all have ended.

    Passes stop signals on to the workers. When one worker fails, ends the others. Returns its failure, or None.
    """
    with tempfile.TemporaryDirectory(prefix="dragoman-", ignore_cleanup_errors=True) as folder:
        workers = Workers(Path(folder))
        # Who sends a signal to every process, as SLURM does, must not end torchrun before the workers have saved: it
        # inherits the mask and stays deaf, as the workers do until they have joined.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        torchrun = subprocess.Popen(
            _torchrun_command(processes, arguments),
            env=_worker_environment(folder),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we pass it on
        )
        before = {number: signal.signal(number, workers.remember) for number in stop_signals()}
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            while torchrun.poll() is None and not workers.failed and not workers.must_end:
                workers.forward_signals()
                time.sleep(POLL_SECONDS)
            return workers.failure(torchrun.poll())
        finally:
            if torchrun.poll() is None:
                torchrun.kill()  # first, so that it does not report the workers that we end
                workers.kill()
            torchrun.communicate()  # closes the pipe, which ends a worker that had no time to tell its process id
            for number, handler in before.items():
                # Who has asked to stop may ask again until we have.
                signal.signal(number, signal.SIG_IGN if workers.asked_to_stop else handler)


class Workers:
    """The processes that torchrun started, known by their files in the launch folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signals: list[int] = []
        self._num_sent: dict[int, int] = {}

    @property
    def failed(self) -> bool:
        """Whether a worker has written its failure."""
        return has_failed(self._folder)

    @property
    def asked_to_stop(self) -> bool:
        """Whether a stop signal was received."""
        return bool(self._signals)

    @property
    def must_end(self) -> bool:
        """Whether the user has pressed Ctrl-C too often to wait any longer."""
        return self._signals.count(signal.SIGINT) >= INTERRUPTS_TO_KILL

    def remember(self, number: int, frame: FrameType | None) -> None:
        """A signal handler. `forward_signals` passes the signal on."""
        self._signals.append(number)

    def forward_signals(self) -> None:
        """Sends every worker the signals it has not received yet, including those from before it started."""
        for pid in read_process_ids(self._folder):
            for number in self._signals[self._num_sent.get(pid, 0) :]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            self._num_sent[pid] = len(self._signals)

    def kill(self) -> None:
        """Kills all workers and the processes that they have started."""
        for pid in read_process_ids(self._folder):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGKILL)

    def failure(self, torchrun_status: int | None) -> Failure | None:
        """Why the launch failed, or None if it did not. `torchrun_status` is None if torchrun is still running."""
        if self.failed:
            return read_first_failure(self._folder)
        if self.must_end:
            return Failure(ExitStatus.INTERRUPTED, "")
        if torchrun_status == 0:
            return None
        return Failure(
            ExitStatus.DEFECT,
            "dragoman: a worker process was killed without an error message, possibly out of memory (see torchrun's "
            "report above and `dragoman logs RUN --rank R`). The same command resumes from the newest checkpoint.",
        )


def _torchrun_command(processes: int, arguments: Sequence[str]) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*torchrun, "--nproc-per-node", f"{processes}", "--max-restarts", "0", *WORKER, *arguments]


def _worker_environment(folder: str) -> dict[str, str]:
    # With a safe path, Python does not import modules from the current folder. If our packages are in a clone, and so
    # not among the installed ones, the workers need its path.
    environment = os.environ | {LAUNCH_FOLDER: folder, "PYTHONSAFEPATH": "1"}
    if HOME.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    return environment
