"""From the configured corpora to a tokenizer and token stores on disk."""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.progress import show_progress
from trainer.data.sources import Block, check_sources, corpus_name, corpus_place, read_pairs, source_identity
from trainer.data.publishing import publish_file
from trainer.data.store import Store, writing_store
from trainer.data.tokenizer import Tokenizer, train_tokenizer
from trainer.data.validation import copy_validation
from trainer.errors import UserError

_STORE_FORMAT = 1
_SAMPLE_SEED = 1

IdPairs = tuple[list[list[int]], list[list[int]]]


@dataclass(frozen=True)
class Prepared:
    """The tokenizer of a run and the stores of its training corpora, in the order of `data.train`.

    `reused` tells, store by store, whether it was there already.
    """

    tokenizer: Tokenizer
    stores: tuple[Store, ...]
    reused: tuple[bool, ...]


def prepare(data: DataConfig, tokenizer: TokenizerConfig, run_directory: str | os.PathLike[str]) -> Prepared:
    """Makes what is missing of the run's tokenizer and token stores, and opens both; progress goes to stderr.

    The tokenizer becomes `<run>/tokenizer.model`, the stores lie in `data.cache`, each under a name that changes with
    its source files, tokenizer and `data.max_length`; so do copies of the validation text. To be called by one
    process at a time. Raises UserError for what is wrong with the corpora or the disk.
    """
    if not data.train:
        raise UserError("`data.train` is empty: give at least one corpus to train on.")
    check_sources((*data.train, *data.valid))
    model = _run_tokenizer(data.train, tokenizer, Path(run_directory) / "tokenizer.model")
    directory = store_directory(data, run_directory)
    for corpus in data.valid:
        copy_validation(corpus, directory)
    built = [_build_store(corpus, data, model, directory) for corpus in data.train]
    return Prepared(model, tuple(store for store, _ in built), tuple(reused for _, reused in built))


def open_prepared(data: DataConfig, run_directory: str | os.PathLike[str]) -> Prepared:
    """What `prepare` has made, for the other processes of a run; builds nothing, raises UserError where it is not."""
    model = Tokenizer.load(Path(run_directory) / "tokenizer.model")
    directory = store_directory(data, run_directory)
    stores = [Store.open(_store_path(corpus, data, model, directory)) for corpus in data.train]
    for corpus, store in zip(data.train, stores, strict=True):
        if store is None:
            raise UserError(
                f"{directory} holds no token store for {corpus_place(corpus)}: run `dragoman prepare` first."
            )
    return Prepared(model, tuple(store for store in stores if store is not None), (True,) * len(stores))


def store_directory(data: DataConfig, run_directory: str | os.PathLike[str]) -> Path:
    """Where the token stores of a run lie: `data.cache`, or `data` in the run directory."""
    return Path(data.cache) if data.cache else Path(run_directory) / "data"


def _run_tokenizer(corpora: Iterable[CorpusConfig], config: TokenizerConfig, path: Path) -> Tokenizer:
    given = Tokenizer.load(config.path) if config.path else None
    if path.exists():
        model = Tokenizer.load(path)
        if given is not None and given.fingerprint != model.fingerprint:
            raise UserError(f"{path} differs from `tokenizer.path` ({config.path}): start a new run directory.")
        if given is None and model.vocab_size != config.vocab_size:
            raise UserError(
                f"`tokenizer.vocab_size` is {config.vocab_size}, but {path} has {model.vocab_size} pieces: "
                "delete that file to train another tokenizer, or start a new run directory."
            )
        return model
    model = given or train_tokenizer(_training_lines(corpora, config.max_training_pairs), config)
    publish_file(path, model.model_bytes)
    return Tokenizer.load(path)


def _training_lines(corpora: Iterable[CorpusConfig], max_pairs: int) -> Iterator[str]:
    """Both sides of at most `max_pairs` pairs, each pair of all corpora as likely as any other (reservoir sampling)."""
    draw = random.Random(_SAMPLE_SEED)
    sample: list[tuple[str, str]] = []
    for number, pair in enumerate(chain.from_iterable(zip(*block, strict=True) for block in _all_blocks(corpora))):
        if number < max_pairs:
            sample.append(pair)
        elif (place := draw.randrange(number + 1)) < max_pairs:
            sample[place] = pair
    return chain.from_iterable(sample)


def _all_blocks(corpora: Iterable[CorpusConfig]) -> Iterator[Block]:
    for corpus in corpora:
        yield from show_progress(read_pairs(corpus), f"reading {corpus_place(corpus)} for the tokenizer")


def _store_path(corpus: CorpusConfig, data: DataConfig, tokenizer: Tokenizer, directory: Path) -> Path:
    return directory / f"{corpus_name(corpus)}-{_fingerprint(corpus, data, tokenizer)[:16]}"


def _fingerprint(corpus: CorpusConfig, data: DataConfig, tokenizer: Tokenizer) -> str:
    """Of all that decides what a store holds."""
    parts = [_STORE_FORMAT, source_identity(corpus), data.max_length, tokenizer.fingerprint]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build_store(corpus: CorpusConfig, data: DataConfig, tokenizer: Tokenizer, directory: Path) -> tuple[Store, bool]:
    path = _store_path(corpus, data, tokenizer, directory)
    if (store := Store.open(path)) is not None:
        return store, True
    name, rejected = corpus_name(corpus), Counter[str]()
    with writing_store(path, tokenizer.vocab_size) as writer:
        for block in show_progress(read_pairs(corpus), f"encoding {corpus_place(corpus)}"):
            writer.append(*_usable(_encode(block, tokenizer), data.max_length, rejected))
        if writer.num_pairs == 0:
            raise UserError(
                f"no pair of the corpus {corpus_place(corpus)} can be used: {_reasons(rejected, data.max_length)}."
            )
        writer.finish(name, _fingerprint(corpus, data, tokenizer), dict(rejected))
    store = Store.open(path)
    assert store is not None, "written a moment ago"
    return store, False


def _encode(block: Block, tokenizer: Tokenizer) -> IdPairs:
    """Ids with eos at the end of each sentence."""
    sources, targets = ([[*ids, tokenizer.eos_id] for ids in tokenizer.encode(side)] for side in block)
    return sources, targets


def _usable(block: IdPairs, max_length: int, rejected: Counter[str]) -> IdPairs:
    """The pairs that can be trained on; counts the others by reason."""
    kept: IdPairs = ([], [])
    for source, target in zip(*block, strict=True):
        if reason := _reason_to_reject(source, target, max_length):
            rejected[reason] += 1
        else:
            kept[0].append(source)
            kept[1].append(target)
    return kept


def _reason_to_reject(source: list[int], target: list[int], max_length: int) -> str | None:
    """Why a pair cannot be trained on; a sentence that is only its eos is empty."""
    if len(source) == 1:
        return "empty source"
    if len(target) == 1:
        return "empty target"
    return "too long" if max(len(source), len(target)) > max_length else None


def _reasons(rejected: Counter[str], max_length: int) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items()))
    return f"{counts} (`data.max_length` is {max_length} tokens)"
