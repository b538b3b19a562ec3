"""From the configured corpora to tokenizers and stores on disk."""

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.data.corpora.sources import (
    Block,
    check_sources,
    corpus_name,
    corpus_place,
    read_pairs,
    source_identity,
    source_revision,
)
from trainer.data.preparation.deduplicate_and_write import counts_by_reason, deduplicate_and_write
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.part_workers import PartWorkers, keep_parts_of
from trainer.data.preparation.progress import show_progress
from trainer.data.preparation.raw_parts import PartFile, PartMaker
from trainer.data.preparation.run_tokenizers import run_tokenizers
from trainer.data.preparation.sample import nothing_left, sample_corpora, sample_stores
from trainer.data.preparation.validation import copy_validation
from trainer.data.preparation.working_folder import is_worked_in, working_folder
from trainer.data.publishing import explaining_full_disk
from trainer.data.stores.store import TEXT_DTYPE, Store, token_dtype, writing_store
from trainer.data.stores.text_lengths import check_text_lengths
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import TokenizerPair
from trainer.data.worker_processes import explaining_death
from trainer.errors import UserError

_STORE_FORMAT = 2
_FINGERPRINT_LENGTH = 16
_WORK, _HALF_WRITTEN = ".parts-", ".tmp-"

TRAINED_TOKENIZERS = "tokenizer-"
"""How the names of the folders of trained tokenizers begin, which lie beside the stores."""


@dataclass(frozen=True)
class Prepared:
    """The tokenizers of a run and the stores of its training corpora, in the order of `data.train`.

    `reused` tells, store by store, whether it was there already.
    """

    tokenizers: TokenizerPair
    stores: tuple[Store, ...]
    reused: tuple[bool, ...]


def build_stores(
    data: DataConfig, tokenizer: TokenizerConfig, run_directory: str | os.PathLike[str], workers: int | None = None
) -> Prepared:
    """Makes what is missing of the run's tokenizers and stores, and opens them; progress goes to stderr.

    The tokenizers come into the run directory, the stores into `data.cache`, each under a name that changes with all
    that decides what is in it; so do copies of the validation text. `workers` processes filter and encode (None: one
    for each core that this process may use); what they have finished is kept over a kill. To be called by one process
    of a run at a time. Raises UserError for what is wrong with the corpora or the disk.
    """
    if not data.train:
        raise UserError("`data.train` is empty: give at least one corpus to train on.")
    check_sources((*data.train, *data.valid))
    PairFilter(data.filters)  # first of all, because it tells what is wrong with a language identifier
    run, cache = Path(run_directory), store_directory(data, run_directory)
    trained = cache / f"{TRAINED_TOKENIZERS}{_fingerprint(_sample_identity(data, tokenizer))[:_FINGERPRINT_LENGTH]}"
    workers = workers or len(os.sched_getaffinity(0))
    with explaining_full_disk(cache):
        for corpus in data.valid:
            copy_validation(corpus, cache)
        if data.mode == "stream":
            stores, reused = _build_stores(_Recipe(data, None, cache), workers, {})
            draw = partial(sample_stores, stores, data, tokenizer.max_training_pairs)
            tokenizers = run_tokenizers(tokenizer, run, trained, draw)
            check_text_lengths(stores, data, PairEncoder(tokenizers, data.max_length))
            return Prepared(tokenizers, stores, reused)
        sizes: dict[CorpusConfig, int] = {}
        tokenizers = run_tokenizers(tokenizer, run, trained, lambda: _sample(data, tokenizer, sizes))
        return Prepared(tokenizers, *_build_stores(_Recipe(data, tokenizers, cache), workers, sizes))


def verify(prepared: Prepared) -> None:
    """Raises UserError where a store that was there already is not what was written; reads all of it."""
    for store, reused in zip(prepared.stores, prepared.reused, strict=True):
        if reused and (damaged := store.damage()):
            raise UserError(
                f"{store.directory / damaged[0]} is damaged, for its checksum is not that of the manifest beside it: "
                f"delete the folder {store.directory} and prepare the data again."
            )


def open_prepared(data: DataConfig, run_directory: str | os.PathLike[str]) -> Prepared:
    """What `prepare` has made, for the other processes of a run; builds nothing, raises UserError where it is not."""
    tokenizers, cache = TokenizerPair.load(Path(run_directory)), store_directory(data, run_directory)
    recipe = _Recipe(data, None if data.mode == "stream" else tokenizers, cache)
    stores = [Store.open(recipe.path(corpus, recipe.fingerprint(corpus))) for corpus in data.train]
    for corpus, store in zip(data.train, stores, strict=True):
        if store is None:
            raise UserError(f"{cache} holds no store for {corpus_place(corpus)}: run `dragoman prepare` first.")
    return Prepared(tokenizers, tuple(store for store in stores if store is not None), (True,) * len(stores))


def store_directory(data: DataConfig, run_directory: str | os.PathLike[str]) -> Path:
    """Where the stores of a run lie: `data.cache`, or `data` in the run directory."""
    return Path(data.cache) if data.cache else Path(run_directory) / "data"


def other_stores(prepared: Prepared) -> Iterator[tuple[Path, int]]:
    """Stores, finished or not, that lie beside the run's and belong to other configurations, and their bytes.

    What a live process works on is not among them.
    """
    own = {store.directory for store in prepared.stores}
    for cache in sorted({store.directory.parent for store in prepared.stores}):
        for path in sorted(set(cache.iterdir()) - own):
            try:
                is_other = _is_abandoned(path) or Store.open(path) is not None
                num_bytes = sum(file.stat().st_size for file in path.iterdir()) if is_other else 0
            except FileNotFoundError:  # another process has removed it just now
                continue
            if is_other:
                yield path, num_bytes


def _is_abandoned(path: Path) -> bool:
    """Whether a killed process left this half of a store."""
    for beginning in (_WORK, _HALF_WRITTEN):
        if path.name.startswith(beginning) and path.is_dir():
            return not is_worked_in(path.with_name(_WORK + path.name.removeprefix(beginning)))
    return False


@dataclass(frozen=True)
class _Recipe:
    """All that decides what the stores hold; without tokenizers they hold text."""

    data: DataConfig
    tokenizers: TokenizerPair | None
    cache: Path

    def fingerprint(self, corpus: CorpusConfig) -> str:
        parts = [_STORE_FORMAT, source_identity(corpus), _filters_identity(self.data.filters)]
        if self.tokenizers is not None:
            parts += [self.data.max_length, self.tokenizers.fingerprint]
        return _fingerprint(parts)

    def path(self, corpus: CorpusConfig, fingerprint: str) -> Path:
        return self.cache / f"{corpus_name(corpus)}-{fingerprint[:_FINGERPRINT_LENGTH]}"

    @property
    def dtype(self) -> str:
        if self.tokenizers is None:
            return TEXT_DTYPE
        return token_dtype(max(self.tokenizers.source.vocab_size, self.tokenizers.target.vocab_size))

    def maker(self) -> PartMaker:
        encoder = None if self.tokenizers is None else PairEncoder(self.tokenizers, self.data.max_length)
        return PartMaker(PairFilter(self.data.filters), encoder, self.dtype)

    def texts(self, source: Side, target: Side) -> list[list[str]]:
        """[source, target] of stored pairs, as the tokenizers write them."""
        sides = []
        for name, side in (("source", source), ("target", target)):
            end_N = side.length_N.cumsum()
            sentences = [side.token_L[end - length : end] for end, length in zip(end_N, side.length_N, strict=True)]
            if self.tokenizers is None:
                sides.append([sentence.tobytes().decode() for sentence in sentences])
            else:
                sides.append(getattr(self.tokenizers, name).decode(sentences))
        return [list(pair) for pair in zip(*sides, strict=True)]


def _build_stores(
    recipe: _Recipe, num_workers: int, sizes: dict[CorpusConfig, int]
) -> tuple[tuple[Store, ...], tuple[bool, ...]]:
    with explaining_death("prepared the data"), PartWorkers(recipe.maker(), num_workers) as workers:
        built = [_build_store(recipe, corpus, workers, sizes.get(corpus)) for corpus in recipe.data.train]
    return tuple(store for store, _ in built), tuple(reused for _, reused in built)


def _build_store(
    recipe: _Recipe, corpus: CorpusConfig, workers: PartWorkers, num_pairs: int | None
) -> tuple[Store, bool]:
    fingerprint = recipe.fingerprint(corpus)
    path = recipe.path(corpus, fingerprint)
    folder = recipe.cache / f"{_WORK}{path.name}"
    if (store := Store.open(path)) is not None and not folder.exists():
        return store, True
    if not folder.exists():
        _tell_why(recipe, corpus)
    with working_folder(folder):
        # By the process that this one waited for, or by one that was killed before it removed the folder.
        if (store := Store.open(path)) is not None:
            return store, True
        keep_parts_of(source_revision(corpus), folder)
        with show_progress(f"preparing {corpus_name(corpus)}", num_pairs) as advance:
            parts = workers.write_parts(read_pairs(corpus), folder, advance)
        if recipe.fingerprint(corpus) != fingerprint:
            raise UserError(
                f"the corpus {corpus_place(corpus)} changed while it was read: start again when nothing writes to it."
            )
        _write_store(recipe, corpus, fingerprint, parts)
    store = Store.open(path)
    assert store is not None, "written a moment ago"
    return store, False


def _tell_why(recipe: _Recipe, corpus: CorpusConfig) -> None:
    """Says so where a corpus of this name was prepared before, because people then expect nothing left to do."""
    name = corpus_name(corpus)
    own = {recipe.path(other, recipe.fingerprint(other)) for other in recipe.data.train}
    before = set(recipe.cache.glob(f"{glob.escape(name)}-{'?' * _FINGERPRINT_LENGTH}")) - own
    if before:
        print(
            f"{name} is prepared anew: its files, the filters, `data.mode`, `data.max_length` or the tokenizer are not "
            f"those of {', '.join(sorted(path.name for path in before))}",
            file=sys.stderr,
            flush=True,
        )


def _write_store(recipe: _Recipe, corpus: CorpusConfig, fingerprint: str, parts: Sequence[PartFile]) -> None:
    with writing_store(recipe.path(corpus, fingerprint), recipe.dtype) as writer:
        rejections = deduplicate_and_write(parts, recipe.data.filters.duplicates, recipe.texts, writer)
        rejected, examples = counts_by_reason(rejections)
        if writer.num_pairs == 0:
            raise nothing_left(corpus, rejected, recipe.data)
        writer.finish(corpus_name(corpus), fingerprint, rejected, examples)


def _sample(data: DataConfig, tokenizer: TokenizerConfig, sizes: dict[CorpusConfig, int]) -> Block:
    """The tokenizers' sample; notes how many pairs each corpus has, which the next reading can show."""
    sample, counts = sample_corpora(data, tokenizer.max_training_pairs)
    sizes.update(zip(data.train, counts, strict=True))
    return sample


def _sample_identity(data: DataConfig, tokenizer: TokenizerConfig) -> list[Any]:
    """All that decides what tokenizers are trained."""
    corpora = [[source_identity(corpus), corpus.weight] for corpus in data.train]
    settings = asdict(replace(tokenizer, sampling=None))
    return [_STORE_FORMAT, data.mode, corpora, data.temperature, _filters_identity(data.filters), settings]


def _filters_identity(filters: FilterConfig) -> list[Any]:
    place = (filters.language_id or "").rpartition(":")[0]
    code = Path(place).read_bytes() if place.endswith(".py") else b""
    return [asdict(filters), hashlib.sha256(code).hexdigest()]


def _fingerprint(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
