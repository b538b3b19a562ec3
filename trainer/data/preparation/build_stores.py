"""From the configured corpora to tokenizers and stores on disk."""

import glob
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from pathlib import Path

from trainer.data.config import CorpusConfig, DataConfig, TokenizerConfig
from trainer.data.corpora.sources import (
    Block,
    check_sources,
    corpus_name,
    corpus_place,
    read_pairs,
    source_revision,
)
from trainer.data.preparation.deduplicate_and_write import counts_by_reason, deduplicate_and_write
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.known_sources import KnownSources
from trainer.data.preparation.part_workers import PartWorkers, keep_parts_of
from trainer.data.preparation.progress import show_progress
from trainer.data.preparation.raw_parts import PartFile
from trainer.data.preparation.recipe import FINGERPRINT_LENGTH, Recipe, store_directory, trained_tokenizers
from trainer.data.preparation.run_tokenizers import check_not_replaced, find_tokenizers, run_tokenizers
from trainer.data.preparation.sample import nothing_left, sample_corpora, sample_stores
from trainer.data.preparation.validation import copy_validation, has_copy
from trainer.data.preparation.working_folder import working_folder
from trainer.data.publishing import explaining_full_disk
from trainer.data.stores.store import Store, writing_store
from trainer.data.stores.text_lengths import check_text_lengths
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.tokenizer import TokenizerPair
from trainer.data.worker_processes import explaining_death
from trainer.errors import UserError

WORK, HALF_WRITTEN = ".parts-", ".tmp-"
"""The beginnings of the names of folders that become a store: its raw parts; the store while it is written."""


@dataclass(frozen=True)
class Prepared:
    """The tokenizers of a run and the stores of its training corpora, in the order of `data.train`.

    `reused[n]` is true if store n existed before.
    """

    tokenizers: TokenizerPair
    stores: tuple[Store, ...]
    reused: tuple[bool, ...]


def build_stores(
    data: DataConfig, tokenizer: TokenizerConfig, run_directory: str | os.PathLike[str], workers: int | None = None
) -> Prepared:
    """Opens the tokenizers and stores of a run, after making those that are missing; reports progress on stderr.

    The tokenizers are put into the run directory. The stores and copies of the validation text are put into
    `data.cache`, each under a name that changes with everything that decides its content. `workers` processes filter
    and encode (None: one for each core that this process may use); the parts they have finished survive a kill. Only
    one process of a run may call this at a time. Text is needed only for what is missing. Raises UserError for
    mistakes in the corpora, another tokenizer than the run's, and a full disk.
    """
    if not data.train:
        raise UserError("`data.train` is empty: give at least one corpus to train on.")
    run, cache = Path(run_directory), store_directory(data, run_directory)
    known = KnownSources(cache)
    workers = workers or len(os.sched_getaffinity(0))
    if check_text(data, tokenizer, run_directory):
        PairFilter(data.filters)  # reports mistakes in the language identifier before hours of work
    trained = trained_tokenizers(data, tokenizer, cache, known)
    with explaining_full_disk(cache):
        for corpus in data.valid:
            copy_validation(corpus, cache, known)
        if data.mode == "stream":
            stores, reused = _build_all(Recipe(data, None, cache, known), workers, {})
            draw = partial(sample_stores, stores, data, tokenizer.max_training_pairs)
            tokenizers = run_tokenizers(tokenizer, run, trained, draw)
            check_text_lengths(stores, data, PairEncoder(tokenizers, data.max_length))
        else:
            sizes: dict[CorpusConfig, int] = {}
            tokenizers = run_tokenizers(tokenizer, run, trained, lambda: _sample(data, tokenizer, sizes))
            stores, reused = _build_all(Recipe(data, tokenizers, cache, known), workers, sizes)
        known.keep()
    return Prepared(tokenizers, stores, reused)


def check_text(
    data: DataConfig, tokenizer: TokenizerConfig, run_directory: str | os.PathLike[str]
) -> list[CorpusConfig]:
    """The training corpora whose text `build_stores` has to read.

    Raises UserError, which names the file, if text that has to be read is missing or a tokenizer was replaced. Opens no
    corpus.
    """
    check_not_replaced(Path(run_directory), tokenizer)
    cache = store_directory(data, run_directory)
    known = KnownSources(cache)
    lacking = _without_store(data, tokenizer, Path(run_directory), known)
    check_sources([*lacking, *(corpus for corpus in data.valid if not has_copy(corpus, cache, known))])
    return lacking


def _without_store(data: DataConfig, tokenizer: TokenizerConfig, run: Path, known: KnownSources) -> list[CorpusConfig]:
    cache, tokenizers = store_directory(data, run), None
    if data.mode == "store":
        try:
            tokenizers = find_tokenizers(tokenizer, run, trained_tokenizers(data, tokenizer, cache, known))
        except (UserError, OSError):  # which is reported when they are used
            return list(data.train)
        if tokenizers is None:
            return list(data.train)
    recipe = Recipe(data, tokenizers, cache, known)
    return [corpus for corpus in data.train if not _has_store(recipe, corpus)]


def _has_store(recipe: Recipe, corpus: CorpusConfig) -> bool:
    try:
        return recipe.open(corpus) is not None
    except (UserError, OSError):  # text that is gone, or a language identifier, and nothing is known of them
        return False


def verify(prepared: Prepared) -> None:
    """Reads the stores that existed before. Raises UserError if one is not what was written."""
    for store, reused in zip(prepared.stores, prepared.reused, strict=True):
        if reused and (damaged := store.damage()):
            raise UserError(
                f"{store.directory / damaged[0]} is damaged, for its checksum is not that of the manifest next to it: "
                f"delete the folder {store.directory} and prepare the data again."
            )


def open_prepared(data: DataConfig, run_directory: str | os.PathLike[str]) -> Prepared:
    """What `build_stores` made, for the other processes of a run. Builds nothing; raises UserError if it is missing."""
    tokenizers, cache = TokenizerPair.load(Path(run_directory)), store_directory(data, run_directory)
    recipe = Recipe(data, None if data.mode == "stream" else tokenizers, cache, KnownSources(cache))
    stores = []
    for corpus in data.train:
        if (store := recipe.open(corpus)) is None:
            raise UserError(f"{cache} holds no store for {corpus_place(corpus)}: run `dragoman prepare` first.")
        stores.append(store)
    return Prepared(tokenizers, tuple(stores), (True,) * len(stores))


def _build_all(
    recipe: Recipe, num_workers: int, sizes: dict[CorpusConfig, int]
) -> tuple[tuple[Store, ...], tuple[bool, ...]]:
    with explaining_death("prepared the data"), ExitStack() as stack:
        # Made when the first corpus needs them: they need the language identifier, finished stores do not.
        workers = cached(lambda: stack.enter_context(PartWorkers(recipe.maker(), num_workers)))
        built = [_build(recipe, corpus, workers, sizes.get(corpus)) for corpus in recipe.data.train]
    return tuple(store for store, _ in built), tuple(reused for _, reused in built)


def _build(
    recipe: Recipe, corpus: CorpusConfig, workers: Callable[[], PartWorkers], num_pairs: int | None
) -> tuple[Store, bool]:
    """The store of a corpus, and whether it existed before."""
    fingerprint = recipe.fingerprint(corpus)
    path = recipe.path(corpus, fingerprint)
    folder = recipe.cache / f"{WORK}{path.name}"
    if (store := Store.open(path)) is not None and not folder.exists():
        return store, True
    if not folder.exists():
        _print_why(recipe, corpus)
    with working_folder(folder):
        # By the process that this one waited for, or by one that was killed before it removed the folder.
        if (store := Store.open(path)) is not None:
            return store, True
        keep_parts_of(source_revision(corpus), folder)
        with show_progress(f"preparing {corpus_name(corpus)}", num_pairs) as advance:
            parts = workers().write_parts(read_pairs(corpus), folder, advance)
        if recipe.fingerprint(corpus) != fingerprint:
            raise UserError(
                f"the corpus {corpus_place(corpus)} changed while it was read: start again when nothing writes to it."
            )
        _write_store(recipe, corpus, fingerprint, parts)
    recipe.known.keep()
    store = Store.open(path)
    assert store is not None, "written a moment ago"
    return store, False


def _print_why(recipe: Recipe, corpus: CorpusConfig) -> None:
    """Says why a corpus is prepared although one of its name was before: people then expect nothing left to do."""
    name = corpus_name(corpus)
    own = {recipe.path(other, recipe.fingerprint(other)) for other in recipe.data.train}
    before = set(recipe.cache.glob(f"{glob.escape(name)}-{'?' * FINGERPRINT_LENGTH}")) - own
    if before:
        print(
            f"{name} is prepared again: its files, the filters, `data.mode`, `data.max_length` or the tokenizer differ "
            f"from those of {', '.join(sorted(path.name for path in before))}",
            file=sys.stderr,
            flush=True,
        )


def _write_store(recipe: Recipe, corpus: CorpusConfig, fingerprint: str, parts: Sequence[PartFile]) -> None:
    with writing_store(recipe.path(corpus, fingerprint), recipe.dtype) as writer:
        rejections = deduplicate_and_write(parts, recipe.data.filters.duplicates, recipe.texts, writer)
        rejected, examples = counts_by_reason(rejections)
        if writer.num_pairs == 0:
            raise nothing_left(corpus, rejected, recipe.data)
        writer.finish(corpus_name(corpus), fingerprint, rejected, examples)


def _sample(data: DataConfig, tokenizer: TokenizerConfig, sizes: dict[CorpusConfig, int]) -> Block:
    """Draws the tokenizers' sample; adds to `sizes` how many pairs each corpus has, which the next bars show."""
    sample, counts = sample_corpora(data, tokenizer.max_training_pairs)
    sizes.update(zip(data.train, counts, strict=True))
    return sample
