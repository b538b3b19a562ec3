"""The run directory: whose it is, and what lies in it before the first step.

RUN/config.yaml  RUN/tokenizer.model (or one for each language)  RUN/data/…  RUN/metrics.jsonl  RUN/checkpoints/…
"""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.configuration.reading import dump, load_resolved
from trainer.configuration.same_run import require_same_run
from trainer.configuration.sections import Config
from trainer.data.config import TokenizerConfig
from trainer.data.preparation.build_stores import Prepared, build_stores, check_text
from trainer.data.preparation.recipe import TRAINED_TOKENIZERS
from trainer.data.preparation.run_tokenizers import TOKENIZER_CHECKSUMS, remove_tokenizers
from trainer.data.preparation.validation import VALIDATION_COPIES
from trainer.data.text.tokenizer import TOKENIZER_FILES
from trainer.errors import UserError
from trainer.files import is_locked, locked, write_atomically
from trainer.run_directory.layout import CHECKPOINTS, DATA, OWNER, config_path, metrics_path
from trainer.run_directory.state import read_state
from trainer.run_directory.watchdog import SECONDS_BETWEEN_HEARTBEATS, read_heartbeats

_SECONDS_TO_LOCK = 1.0  # `find_owner` takes the lock for a moment
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_SILENCE = 600.0  # after which a rank is dead, however wrong the clocks are
# What the user can mend about a folder; a full disk is told where it is noticed.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ENAMETOOLONG)


def tokenizer_paths(directory: str | Path) -> list[Path]:
    """Where the SentencePiece models of a run may lie."""
    return [Path(directory) / name for name in TOKENIZER_FILES]


def prepare(config: Config, workers: int | None = None) -> Prepared:
    """Opens the run directory for `config` and makes its tokenizers and stores where they are missing.

    In `workers` processes (None: one for each core). Raises UserError where the directory belongs to another run, is in
    use or cannot be written, or where the corpora cannot be used; of a run that never came to be, nothing is then left.
    A run whose ranks on other machines were alive a moment ago is watched for 25 s, for heartbeats.
    """
    check_text(config.data, config.tokenizer, config.run.directory)  # before any folder is made
    directory = Path(config.run.directory)
    is_new = not os.path.exists(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with owning(directory):
            _refuse_if_trained_elsewhere(directory)
            try:
                return _prepare(config, directory, workers)
            finally:
                if is_new:  # while it is owned: another start may have found it just as new
                    _remove_if_unused(directory)
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise UserError(
            f"{_told_folder(config, error)}, but {error.filename} cannot be written ({error.strerror}): name another "
            "folder, or change its permissions."
        ) from error


def _told_folder(config: Config, error: OSError) -> str:
    """The setting that is to blame for a path that cannot be written."""
    path, run, cache = Path(str(error.filename)), config.run.directory, config.data.cache
    if cache is not None and _on_one_path(path, cache) and not _on_one_path(path, run):
        return f"`data.cache` is {cache}"
    return f"`run.directory` is {run}"


def _on_one_path(path: Path, folder: str) -> bool:
    return path.is_relative_to(folder) or Path(folder).is_relative_to(path)


def _prepare(config: Config, directory: Path, workers: int | None) -> Prepared:
    path = config_path(directory)
    if not _has_begun(directory):  # people look at the data, change a setting and look again
        remove_tokenizers(directory, config.tokenizer, _former_tokenizer(path))
    elif path.exists():
        require_same_run(load_resolved(path), config)
    prepared = build_stores(config.data, config.tokenizer, directory, workers)
    write_atomically(path, dump(config))
    return prepared


def _has_begun(directory: Path) -> bool:
    """Whether a training has left anything that depends on the configuration."""
    return metrics_path(directory).exists() or (directory / CHECKPOINTS).exists()


def _former_tokenizer(path: Path) -> TokenizerConfig | None:
    """The tokenizer's settings in an earlier configuration file; None if it is missing or not valid any more."""
    with suppress(UserError):
        return load_resolved(path).tokenizer if path.exists() else None
    return None


def _remove_if_unused(directory: Path) -> None:
    """A new directory in which no run came to be must not be in the way of the next try."""
    if not directory.is_dir() or config_path(directory).exists():
        return
    for left in (*tokenizer_paths(directory), directory / TOKENIZER_CHECKSUMS, directory / OWNER):
        left.unlink(missing_ok=True)
    data = directory / DATA
    if data.is_dir() and all(path.name.startswith((TRAINED_TOKENIZERS, VALIDATION_COPIES)) for path in data.iterdir()):
        shutil.rmtree(data)
    if not any(directory.iterdir()):
        directory.rmdir()


@contextmanager
def owning(directory: str | Path) -> Iterator[None]:
    """Keeps every other training and preparation out of a run directory while this one lasts.

    The lock is the kernel's and ends with the process, however that ends. Raises UserError, which names the owner,
    where another process holds it. Some cluster file systems have no locks, or none that other machines see: that is
    what heartbeats are looked at for, see `prepare`.
    """
    path = Path(directory) / OWNER
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, _SECONDS_TO_LOCK))
        except BlockingIOError as error:
            raise _in_use(directory, path.read_text(encoding="utf-8").strip()) from error
        file.truncate(0)
        file.write(f"{process_name(os.getpid(), socket.gethostname())}\n")
        file.flush()
        yield


def _refuse_if_trained_elsewhere(directory: Path) -> None:
    """Raises UserError where ranks on other machines go on beating, whose lock may not be seen from here.

    Only a run that did not say that it ended is watched, for longer than it takes from one heartbeat to the next; what
    counts is that they change, since clocks differ.
    """
    if (read_state(directory) or {}).get("state") != "training":
        return
    first = _beats_elsewhere(directory)
    deadline = time.monotonic() + 2.5 * SECONDS_BETWEEN_HEARTBEATS
    while first and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        beating = [beat for rank, beat in _beats_elsewhere(directory).items() if beat != first.get(rank)]
        if beating:
            raise _in_use(directory, process_name(beating[0].get("pid", 0), beating[0]["host"]))


def _beats_elsewhere(directory: Path) -> dict[int, dict[str, Any]]:
    """The heartbeats of other machines that may be of a living training."""
    oldest, here = time.time() - _SECONDS_OF_SILENCE, socket.gethostname()
    beats = read_heartbeats(directory).items()
    return {rank: beat for rank, beat in beats if beat.get("host", here) != here and beat["time"] > oldest}


def _in_use(directory: str | Path, owner: str) -> UserError:
    return UserError(
        f"the run directory {directory} is in use by {owner}: stop that training first, or name another "
        "`run.directory`."
    )


def process_name(pid: int, host: str) -> str:
    """How the owner of a run directory is told."""
    return f"process {pid} on {host}"


def find_owner(directory: str | Path) -> str | None:
    """The process that holds the run directory just now, as far as locks are to be seen from this machine.

    Raises OSError where the file system has none.
    """
    path = Path(directory) / OWNER
    if not is_locked(path):
        return None
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip() or "a process"
    return None
