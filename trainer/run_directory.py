"""The run directory: whose it is, and what lies in it before the first step.

RUN/config.yaml  RUN/tokenizer.model  RUN/data/…  RUN/metrics.jsonl  RUN/checkpoints/…
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.config import Config
from trainer.configuration import dump, load, require_same_run
from trainer.data.prepare import Prepared
from trainer.data.prepare import prepare as prepare_data
from trainer.errors import UserError


def config_path(directory: str | Path) -> Path:
    """The resolved configuration of a run."""
    return Path(directory) / "config.yaml"


def metrics_path(directory: str | Path) -> Path:
    """The record of a run, see `trainer.metrics`."""
    return Path(directory) / "metrics.jsonl"


def prepare(config: Config) -> Prepared:
    """Opens the run directory for `config` and makes its tokenizer and token stores where they are missing.

    For one process at a time; needs no torch. Raises UserError where the directory belongs to another run or cannot be
    written, or where the corpora
    cannot be used; of a new directory then nothing is left but a tokenizer, if it came to be trained.
    """
    path = config_path(config.run.directory)
    if path.exists():
        require_same_run(load(path), config)
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prepared = prepare_data(config.data, config.tokenizer, path.parent)
        _write(path, dump(config))
        return prepared
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(
            f"`run.directory` is {path.parent}, but {error.filename} cannot be written ({error.strerror}): name "
            "another folder, or change its permissions."
        ) from error
    finally:
        if is_new:
            _remove_if_empty(path.parent)


@contextmanager
def owning(directory: str | Path) -> Iterator[None]:
    """Keeps every other training out of a run directory while this one lasts.

    The lock is the kernel's and ends with the process, however that ends. Raises UserError, which names the owner,
    where another process holds it. A file system without locks is trusted.
    """
    with (Path(directory) / "owner").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"the run directory {directory} is in use by {file.read().strip()}: stop that training first, or name "
                "another `run.directory`."
            ) from error
        except OSError:  # some cluster file systems have no locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def _remove_if_empty(directory: Path) -> None:
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
