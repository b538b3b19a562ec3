"""Everything that must be in a run directory before the first step: configuration, tokenizers and stores."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

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
from trainer.files import write_atomically
from trainer.run_directory.layout import CHECKPOINTS, DATA, OWNER, config_path, metrics_path
from trainer.run_directory.ownership import owning, refuse_if_trained_elsewhere

# What the user can correct about a folder. A full disk is reported where it is noticed.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ENAMETOOLONG)


def open_run_directory(config: Config, workers: int | None = None) -> Prepared:
    """Makes the run directory and what is missing in it, in `workers` processes (None: one per core).

    Raises UserError if the directory belongs to another run, is in use or cannot be written, or if the corpora cannot
    be used. A directory that was new then disappears again.
    """
    check_text(config.data, config.tokenizer, config.run.directory)  # before any folder is made
    directory = Path(config.run.directory)
    is_new = not os.path.exists(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with owning(directory):
            refuse_if_trained_elsewhere(directory)
            try:
                return _prepare(config, directory, workers)
            finally:
                if is_new:  # inside of `owning`: another start may have found the directory new as well
                    _remove_if_unused(directory)
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise UserError(
            f"{_setting_of(config, error)}, but {error.filename} cannot be written ({error.strerror}): name another "
            "folder, or change its permissions."
        ) from error


def _setting_of(config: Config, error: OSError) -> str:
    """The setting that names the folder which cannot be written, with its value."""
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
    """Removes a new directory in which no run could begin, so that the next try finds it new."""
    if not directory.is_dir() or config_path(directory).exists():
        return
    for name in (*TOKENIZER_FILES, TOKENIZER_CHECKSUMS, OWNER):
        (directory / name).unlink(missing_ok=True)
    data = directory / DATA
    if data.is_dir() and all(path.name.startswith((TRAINED_TOKENIZERS, VALIDATION_COPIES)) for path in data.iterdir()):
        shutil.rmtree(data)
    if not any(directory.iterdir()):
        directory.rmdir()
