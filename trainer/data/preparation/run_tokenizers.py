"""The tokenizers of a run: given, found, or trained once; and the record of which ones they are."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from trainer.data.config import TokenizerConfig
from trainer.data.corpora.sources import Block
from trainer.data.publishing import publish_file
from trainer.data.text.tokenizer import TOKENIZER_FILES, Tokenizer, TokenizerPair, train_tokenizer
from trainer.errors import UserError

TOKENIZER_CHECKSUMS = "tokenizer.sha256"
"""The record in a run directory, as `sha256sum` writes it, of the models that the run was prepared with."""


def run_tokenizers(
    config: TokenizerConfig, run_directory: Path, trained: Path, sample: Callable[[], Block]
) -> TokenizerPair:
    """The tokenizers in `run_directory`, which are put there first if they are missing.

    Unless `tokenizer.path` names them they are trained on `sample()` and kept in the folder `trained`, whose name must
    change with everything that they depend on: what was trained there before a kill, or for another run, is used.
    Raises UserError if the ones of the run are not those of the configuration, or not those it was prepared with.
    """
    _check_recorded(_model_paths(run_directory), run_directory)
    found = find_tokenizers(config, run_directory, trained)
    if found is None:
        _publish(_train(config, sample()), trained)
        found = TokenizerPair.load(trained)
    if TokenizerPair.exists(run_directory):
        _check_configured(found, config, run_directory)
    else:
        _check_as_before(found, run_directory)
        _publish(found, run_directory)
    checksums = _checksums(found.files())
    if _read_checksums(run_directory) != _parse(checksums):
        publish_file(run_directory / TOKENIZER_CHECKSUMS, checksums)
    return TokenizerPair.load(run_directory)


def find_tokenizers(config: TokenizerConfig, run_directory: Path, trained: Path) -> TokenizerPair | None:
    """The tokenizers that `run_tokenizers` would return, None if it would train them.

    Raises UserError if a file of them cannot be used.
    """
    if TokenizerPair.exists(run_directory):
        return TokenizerPair.load(run_directory)
    if config.path is not None:
        source = Tokenizer.load(config.path)
        return TokenizerPair(source, source if config.target_path is None else Tokenizer.load(config.target_path))
    return TokenizerPair.load(trained) if TokenizerPair.exists(trained) else None


def remove_tokenizers(run_directory: Path, config: TokenizerConfig, former: TokenizerConfig | None) -> None:
    """Removes what an earlier preparation put there, so that `run_tokenizers` starts from `config` alone.

    Leaves files that `config` names, and copies of files that are gone if the `former` configuration named the same.
    Raises UserError for a tokenizer that no preparation put there.
    """
    given = [Path(path) for path in (config.path, config.target_path) if path is not None]
    if config == former and not all(path.exists() for path in given):
        return
    check_not_replaced(run_directory, config)
    for path in (*_not_given(run_directory, config), run_directory / TOKENIZER_CHECKSUMS):
        path.unlink(missing_ok=True)


def check_not_replaced(run_directory: Path, config: TokenizerConfig) -> None:
    """Raises UserError for a tokenizer that neither `config` names nor a preparation put there."""
    _check_recorded(_not_given(run_directory, config), run_directory)


def _not_given(run_directory: Path, config: TokenizerConfig) -> list[Path]:
    given = {Path(path).resolve() for path in (config.path, config.target_path) if path is not None}
    return [path for path in _model_paths(run_directory) if path.resolve() not in given]


def _model_paths(run_directory: Path) -> list[Path]:
    return [run_directory / name for name in TOKENIZER_FILES]


def _check_recorded(paths: Sequence[Path], run_directory: Path) -> None:
    """Raises UserError, which names the file, if one of `paths` exists and is not the recorded tokenizer."""
    recorded = _read_checksums(run_directory)
    for path in paths if recorded else ():
        if path.exists() and _file_hash(path) != recorded.get(path.name):
            raise UserError(
                f"{path} is not the tokenizer that this run was prepared with (its SHA-256 is not the one in "
                f"{TOKENIZER_CHECKSUMS}): put the former file back, or name this one by `tokenizer.path` in a new "
                "`run.directory`."
            )


def _check_configured(found: TokenizerPair, config: TokenizerConfig, run_directory: Path) -> None:
    """Raises UserError if the run's tokenizers cannot be those of `config`; given files may be gone by now."""
    pairs = [(config.path, found.source), (config.target_path, found.target)]
    for name, (path, tokenizer) in zip(("path", "target_path"), pairs, strict=True):
        if path is not None and Path(path).exists() and Tokenizer.load(path).fingerprint != tokenizer.fingerprint:
            raise UserError(f"{tokenizer.path} differs from `tokenizer.{name}` ({path}): start a new run directory.")
    for tokenizer in (found.source, found.target):
        if config.path is None and tokenizer.vocab_size != config.vocab_size:
            raise UserError(
                f"`tokenizer.vocab_size` is {config.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} "
                "pieces: start a new run directory, or delete that file to train another tokenizer."
            )


def _check_as_before(found: TokenizerPair, run_directory: Path) -> None:
    """Raises UserError if other tokenizers than the recorded ones would replace files that are missing."""
    recorded = _read_checksums(run_directory)
    if recorded and recorded != _parse(_checksums(found.files())):
        raise UserError(
            f"{run_directory / next(iter(recorded))} is missing, and the configuration now makes another tokenizer: "
            "put the former file back, or start a new run directory."
        )


def _checksums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def _read_checksums(run_directory: Path) -> dict[str, str]:
    """SHA-256 of each recorded file; empty if there is no record, as in a run that an older version prepared."""
    with suppress(OSError):
        return _parse((run_directory / TOKENIZER_CHECKSUMS).read_bytes())
    return {}


def _parse(checksums: bytes) -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in checksums.decode(errors="replace").splitlines())
    return {name: checksum for checksum, name in (line for line in lines if len(line) == 2)}


def _file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"the tokenizer {path} cannot be read: {error.strerror}.") from error


def _train(config: TokenizerConfig, sample: Block) -> TokenizerPair:
    sources, targets = sample
    print(f"training the tokenizer on {len(sources):,} pairs", file=sys.stderr, flush=True)
    if config.joint:
        joint = train_tokenizer(chain.from_iterable(zip(sources, targets, strict=True)), config)
        return TokenizerPair(joint, joint)
    sides = (("source", sources), ("target", targets))
    return TokenizerPair(*(train_tokenizer(iter(lines), config, f"the {name} sentences") for name, lines in sides))


def _publish(tokenizers: TokenizerPair, directory: Path) -> None:
    for name, content in tokenizers.files().items():
        publish_file(directory / name, content)
