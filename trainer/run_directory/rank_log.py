"""The output of each rank: RUN/logs/rank-00003.log, with one header line per start.

Rank 0 writes to the terminal, and its log is a copy. The others write to their logs alone, since nobody can read the
output of a thousand ranks in one terminal; that includes what C++ writes when it aborts. If a signal such as SIGSEGV
ends a process, the stacks of its threads are in its log.
"""

import faulthandler
import io
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from trainer.errors import UserError
from trainer.run_directory.layout import log_path

_BYTES_OF_A_LINE = 1000  # more than nearly all have


def last_lines(run_directory: Path, rank: int, number: int) -> list[str]:
    """The last lines of a rank's log, whatever its size; none if there is no log."""
    try:
        with log_path(run_directory, rank).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - number * _BYTES_OF_A_LINE))
            return file.read().decode(errors="replace").splitlines()[-number:]
    except OSError:
        return []


class RankLog:
    """While active, copies this process's output, and the exception that ends it, to the rank's log.

    A failing disk costs the log, never the run.
    """

    def __init__(self, run_directory: Path, rank: int, world_size: int) -> None:
        self._path, self._rank, self._world_size = log_path(run_directory, rank), rank, world_size
        self.screen: TextIO = sys.stderr  # what the user sees
        self._descriptor: int | None = None
        self._give_back: Callable[[], None] = lambda: None

    def __enter__(self) -> "RankLog":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            if self._rank == 0:
                print(f"there are no logs of the ranks: {self._path}: {error.strerror}", file=sys.stderr)
            return self
        self.keep(_header(self._rank, self._world_size))
        if not faulthandler.is_enabled():
            faulthandler.enable(self._descriptor)
        with suppress(OSError):  # a launcher may have closed them
            self._give_back = self._copy_stderr() if self._rank == 0 else self._take_over(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.keep(
                f"dragoman: {error}" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            )
        self.give_back()

    def keep(self, text: str) -> None:
        """Appends whole lines to the log alone. May be called from any thread."""
        self._write(text.rstrip("\n") + "\n")

    def give_back(self) -> None:
        """Sends the output of this process to the terminal again. The file stays open for threads that still write."""
        give_back, self._give_back = self._give_back, lambda: None
        give_back()

    def reporting(self, give_up: Callable[[str], None]) -> Callable[[str], None]:
        """`give_up`, with its message also in the log and what it prints on the terminal."""

        def give_up_and_report(message: str) -> None:
            self.keep(message)
            self.give_back()
            give_up(message)

        return give_up_and_report

    def _write(self, text: str) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.write(self._descriptor, text.encode(errors="replace"))

    def _copy_stderr(self) -> Callable[[], None]:
        before, copied = sys.stderr, _Stream(self._write, sys.stderr)
        sys.stderr = copied

        def give_back() -> None:
            if sys.stderr is copied:
                sys.stderr = before

        return give_back

    def _take_over(self, descriptor: int) -> Callable[[], None]:
        """Redirects the file descriptors too, since C and C++ write to them."""
        before = sys.stdout, sys.stderr
        saved = {number: os.dup(number) for number in (1, 2)}
        _move(before, dict.fromkeys(saved, descriptor))
        sys.stdout, sys.stderr = _Stream(self._write), _Stream(self._write)

        def give_back() -> None:
            sys.stdout, sys.stderr = before
            _move(before, saved)

        return give_back


def _move(streams: tuple[TextIO, TextIO], descriptors: dict[int, int]) -> None:
    for stream in streams:
        with suppress(OSError, ValueError):
            stream.flush()
    for number, descriptor in descriptors.items():
        os.dup2(descriptor, number)


def _header(rank: int, world_size: int) -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return (
        f"=== {time.strftime('%Y-%m-%d %H:%M:%S %Z')}  rank {rank} of {world_size}, process {os.getpid()} on "
        f"{socket.gethostname()}{f', SLURM job {job}' if job else ''}"
    )


class _Stream(io.TextIOBase):
    """Writes text to the log and, if it is given, to the stream that it was meant for."""

    def __init__(self, keep: Callable[[str], None], shown: TextIO | None = None) -> None:
        self._keep, self._shown = keep, shown

    def write(self, text: str) -> int:
        self._keep(text)
        return len(text) if self._shown is None else self._shown.write(text)

    def flush(self) -> None:
        if self._shown is not None:
            self._shown.flush()

    def isatty(self) -> bool:
        return self._shown is not None and self._shown.isatty()

    def fileno(self) -> int:
        return 2 if self._shown is None else self._shown.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8" if self._shown is None else self._shown.encoding
