"""The tokenizers of a run: given, found, or trained once."""

import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from trainer.data.config import TokenizerConfig
from trainer.data.corpora.sources import Block
from trainer.data.publishing import publish_file
from trainer.data.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizer
from trainer.errors import UserError


def run_tokenizers(
    config: TokenizerConfig, run_directory: Path, trained: Path, sample: Callable[[], Block]
) -> TokenizerPair:
    """The tokenizers in `run_directory`, which are put there first where there are none.

    Without given ones they are trained on `sample()` and kept in the folder `trained`, whose name must change with all
    that they depend on: what was trained there before a kill, or for another run, is used.
    Raises UserError where the ones of the run are not those of the configuration.
    """
    given = _given(config)
    if TokenizerPair.exists(run_directory):
        found = TokenizerPair.load(run_directory)
        _check_same(found, given, config, run_directory)
        return found
    if given is None:
        if not TokenizerPair.exists(trained):
            _publish(_train(config, sample()), trained)
        given = TokenizerPair.load(trained)
    _publish(given, run_directory)
    return TokenizerPair.load(run_directory)


def _given(config: TokenizerConfig) -> TokenizerPair | None:
    if config.path is None:
        return None
    source = Tokenizer.load(config.path)
    return TokenizerPair(source, source if config.target_path is None else Tokenizer.load(config.target_path))


def _check_same(
    found: TokenizerPair, given: TokenizerPair | None, config: TokenizerConfig, run_directory: Path
) -> None:
    if given is not None and given.fingerprint != found.fingerprint:
        names = f"`tokenizer.path` ({config.path})"
        if config.target_path is not None:
            names += f" and `tokenizer.target_path` ({config.target_path})"
        raise UserError(f"the tokenizers in {run_directory} differ from {names}: start a new run directory.")
    for tokenizer in (found.source, found.target):
        if given is None and tokenizer.vocab_size != config.vocab_size:
            raise UserError(
                f"`tokenizer.vocab_size` is {config.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} "
                "pieces: start a new run directory, or delete that file to train another tokenizer."
            )


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
