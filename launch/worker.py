"""What each process of a training run executes: `python -m launch.worker CONFIG [key=value …]`, or `dragoman worker`.

`dragoman train` starts it through torchrun. torchrun, `accelerate launch`, `deepspeed` and `srun` may start it as
well, because all that it knows of the other processes comes from the environment (RANK, WORLD_SIZE, …).

Under `dragoman train`, the environment variable DRAGOMAN_LAUNCH names a folder in which a worker leaves its process id,
so that signals find it, and its failure, so that a user's mistake is told once and not by every rank and torchrun.
Its standard input is then a pipe that nobody writes to: it ends when `dragoman train` has died, and so does the worker.
Under another launcher a worker looks whether the process that started it still lives.

In a job of SLURM, DRAGOMAN_OUTCOMES names a folder in which each worker that fails leaves why, for
`launch.slurm.requeue`: torchrun turns every exit status into 1.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from launch.failure import Failure, explain
from trainer.errors import ExitStatus, UserError
from trainer.run_directory.layout import rank_name
from trainer.training.stop_request import STOP_SIGNALS

LAUNCH_FOLDER, OUTCOMES = "DRAGOMAN_LAUNCH", "DRAGOMAN_OUTCOMES"
FAILURE_FILE = "failure.json"
WORKER_PREFIX = "worker-"
SECONDS_TO_BE_ENDED = 30
SECONDS_BETWEEN_LOOKS = 1.0
# One of these is in the environment under every launcher. Without any, a shell that has gone is no reason to end.
_SIGNS_OF_A_LAUNCHER = ("RANK", "ACCELERATE_MIXED_PRECISION")
_SECONDS_FOR_A_FILE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the arguments (by default those of `sys.argv`) say. Returns the exit status."""
    folder, outcomes = os.environ.get(LAUNCH_FOLDER), os.environ.get(OUTCOMES)
    try:
        if folder:
            join(Path(folder))
        elif any(name in os.environ for name in _SIGNS_OF_A_LAUNCHER):
            threading.Thread(target=end_with_launcher, args=(os.getppid(),), daemon=True).start()
            if outcomes:
                _take_early_signals()
        _train(list(sys.argv[1:] if arguments is None else arguments), Path(folder) if folder else None)
        # All is saved. Python gives our handlers up before it ends, and one more signal would make that a failure.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    except BaseException as error:
        if isinstance(error, SystemExit):
            failure = Failure(error.code if isinstance(error.code, int) else ExitStatus.DEFECT, "")
        elif isinstance(error, BrokenPipeError):  # of a process of its own: nobody reads what a worker prints
            failure = Failure(ExitStatus.DEFECT, "".join(traceback.format_exception(error)).rstrip())
        else:
            failure = explain(error)
        if outcomes and not folder and failure.message:
            _keep_outcome(Path(outcomes), failure)
        return _leave(Path(folder), failure) if folder else _print(failure)
    return 0


def _train(arguments: list[str], folder: Path | None) -> None:
    from trainer.configuration import reading as configuration

    # `deepspeed` adds --local_rank to every command line; the environment has it too.
    arguments = [argument for argument in arguments if not argument.startswith("--local_rank=")]
    if not arguments:
        raise UserError("A worker needs the configuration to train: `python -m launch.worker CONFIG [key=value …]`.")
    config = configuration.load(arguments[0], arguments[1:])
    from trainer import run  # after the configuration has been checked, because it takes seconds

    outcomes = os.environ.get(OUTCOMES)
    if folder:
        run.train(config, partial(_give_up, folder))
    elif outcomes:
        run.train(config, partial(_give_up_in_a_job, Path(outcomes)))
    else:
        run.train(config)


def _give_up(folder: Path, message: str) -> None:
    try:
        _leave(folder, Failure(ExitStatus.TRY_AGAIN, message))
    finally:
        os._exit(ExitStatus.TRY_AGAIN)


def _give_up_in_a_job(outcomes: Path, message: str) -> None:
    from trainer.run_directory.watchdog import end_process

    # The disk may be what hangs.
    writing = threading.Thread(
        target=_keep_outcome, args=(outcomes, Failure(ExitStatus.TRY_AGAIN, message)), daemon=True
    )
    writing.start()
    writing.join(_SECONDS_FOR_A_FILE)
    end_process(message)


def _keep_outcome(outcomes: Path, failure: Failure) -> None:
    document = {"time": time.time()} | asdict(failure)
    with contextlib.suppress(OSError):
        path = outcomes / f"{rank_name(int(os.environ.get('RANK', '0')))}.json"
        path.write_text(json.dumps(document), encoding="utf-8")


def join(folder: Path) -> None:
    """Makes this process one of a launch: it can be sent signals, and it ends when `dragoman train` dies."""
    _take_early_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    (folder / f"{WORKER_PREFIX}{os.getpid()}").touch()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def end_with_launcher(launcher: int) -> None:
    """Ends this process a moment after the process that has started it; its own processes then end by themselves."""
    while os.getppid() == launcher:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)


def _take_early_signals() -> None:
    """Until the loop takes the signals over there is nothing to save, so they end the worker at once."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _leave(folder: Path, failure: Failure) -> int:
    """Leaves the failure in the folder, unless another rank was first, and waits for `dragoman train` to end us all: a
    rank that simply ended would make the others fail in their next collective and hide the cause."""
    if failure.status == ExitStatus.DEFECT:
        failure = Failure(ExitStatus.DEFECT, f"dragoman: rank {os.environ.get('RANK', '0')} failed:\n{failure.message}")
    draft = folder / f"draft-{os.getpid()}"
    try:
        draft.write_text(json.dumps(asdict(failure)))
        with contextlib.suppress(FileExistsError):
            os.link(draft, folder / FAILURE_FILE)
        draft.unlink()
    except OSError:  # that disk is full, too
        return _print(failure)
    time.sleep(SECONDS_TO_BE_ENDED)
    return failure.status


def _print(failure: Failure) -> int:
    if failure.message:
        print(failure.message, file=sys.stderr)
    return failure.status


if __name__ == "__main__":
    sys.exit(main())
