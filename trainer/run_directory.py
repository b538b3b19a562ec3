"""The run directory: whose it is, and what lies in it before the first step.

RUN/config.yaml  RUN/tokenizer.model  RUN/data/…  RUN/metrics.jsonl  RUN/checkpoints/…
"""

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


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def _remove_if_empty(directory: Path) -> None:
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
