"""What each process of a training run executes: `python -m launch.worker CONFIG [key=value …]`, or `dragoman worker`.

`dragoman train` starts it through torchrun. torchrun, `accelerate launch`, `deepspeed` and `srun` may start it as
well, because all that it knows of the other processes comes from the environment (RANK, WORLD_SIZE, …).

Under `dragoman train`, DRAGOMAN_LAUNCH names a folder for process ids and failures (`launch.worker_failures`). Standard
input is then a pipe that nobody writes to. It ends when `dragoman train` dies, and the worker ends with it. Under
another launcher a worker watches whether the process that started it is alive.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from launch.failure import Failure, explain
from launch.processes import launcher_variables, standard_streams
from launch.processes.output import outlive_the_readers
from launch.worker_failures import (
    LAUNCH_FOLDER,
    OUTCOMES_FOLDER,
    write_first_failure,
    write_outcome,
    write_process_id,
)
from trainer.errors import ExitStatus, UserError
from trainer.run_directory.stop_reason import STOP_SIGNALS, stop_signals

SECONDS_TO_BE_ENDED = 30
SECONDS_BETWEEN_LOOKS = 1.0
# One of these is in the environment under every launcher. Without any, a shell that has gone is no reason to end.
_SIGNS_OF_A_LAUNCHER = ("RANK", "ACCELERATE_MIXED_PRECISION")
_SECONDS_FOR_A_FILE = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the arguments (by default those of `sys.argv`) say. Returns the exit status."""
    standard_streams.open_missing()
    outlive_the_readers()
    folder, outcomes = os.environ.get(LAUNCH_FOLDER), os.environ.get(OUTCOMES_FOLDER)
    try:
        if folder:
            join(Path(folder))
        elif any(name in os.environ for name in _SIGNS_OF_A_LAUNCHER):
            threading.Thread(target=end_with_launcher, args=(os.getppid(),), daemon=True).start()
            if outcomes:
                _take_early_signals()
        _train(list(sys.argv[1:] if arguments is None else arguments), Path(folder) if folder else None)
        # All is saved. Python removes our handlers before it ends, and one more signal would make that a failure.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    except BaseException as error:
        if isinstance(error, SystemExit):
            failure = Failure(error.code if isinstance(error.code, int) else ExitStatus.DEFECT, "")
        elif isinstance(error, BrokenPipeError):  # of a child process: nobody reads a worker's output
            failure = Failure(ExitStatus.DEFECT, "".join(traceback.format_exception(error)).rstrip())
        else:
            failure = explain(error)
        if outcomes and not folder and failure.message:
            write_outcome(Path(outcomes), failure, _rank())
        return _leave(Path(folder), failure) if folder else _print(failure)
    return 0


def _train(arguments: list[str], folder: Path | None) -> None:
    from trainer.configuration import reading as configuration

    # `deepspeed` adds --local_rank to every command line; the environment has it too.
    arguments = [argument for argument in arguments if not argument.startswith("--local_rank=")]
    launcher_variables.check(os.environ)
    if not arguments:
        raise UserError("A worker needs the configuration to train: `python -m launch.worker CONFIG [key=value …]`.")
    config = configuration.load(arguments[0], arguments[1:])
    from trainer import run  # after the configuration has been checked, because it takes seconds

    outcomes = os.environ.get(OUTCOMES_FOLDER)
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
        target=write_outcome, args=(outcomes, Failure(ExitStatus.TRY_AGAIN, message), _rank()), daemon=True
    )
    writing.start()
    writing.join(_SECONDS_FOR_A_FILE)
    end_process(message)


def join(folder: Path) -> None:
    """Makes this process one of a launch: signals reach it, and it ends when `dragoman train` dies."""
    _take_early_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    write_process_id(folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def end_with_launcher(launcher: int) -> None:
    """Waits until the process that started this one is gone, then kills this one; its own children then end, too."""
    while os.getppid() == launcher:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)


def _take_early_signals() -> None:
    """Lets stop signals end the worker at once: there is nothing to save until the loop takes them over."""
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _leave(folder: Path, failure: Failure) -> int:
    """Writes the failure for `dragoman train` and waits to be ended by it. Returns the exit status.

    A rank that simply ended would make the others fail in their next collective, which would hide the cause.
    """
    if failure.status == ExitStatus.DEFECT:
        failure = Failure(ExitStatus.DEFECT, f"dragoman: rank {_rank()} failed:\n{failure.message}")
    try:
        write_first_failure(folder, failure)
    except OSError:  # that disk is full, too
        return _print(failure)
    time.sleep(SECONDS_TO_BE_ENDED)
    return failure.status


def _rank() -> int:
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() else 0


def _print(failure: Failure) -> int:
    if failure.message:
        print(failure.message, file=sys.stderr)
    return failure.status


if __name__ == "__main__":
    sys.exit(main())
