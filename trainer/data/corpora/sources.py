"""Reads every kind of corpus as blocks of aligned text."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from trainer.data.config import CorpusConfig
from trainer.data.corpora.compressed_files import check_files, file_identity, find_files
from trainer.data.corpora.hub import hub_revision, read_hub
from trainer.data.corpora.json_lines import read_jsonl
from trainer.data.corpora.phrasebook import corpus as phrasebook
from trainer.data.corpora.remote_files import is_remote
from trainer.data.corpora.shards import pair_shards
from trainer.data.corpora.tables import read_parquet
from trainer.data.corpora.text_files import read_parallel, read_tsv
from trainer.errors import UserError

Block = tuple[list[str], list[str]]
"""Sources and targets, equally many: line n of one is the translation of line n of the other."""

_BLOCK_PAIRS = 10_000


def read_pairs(corpus: CorpusConfig) -> Iterator[Block]:
    """Yields the pairs of a corpus in its own order, at most `limit` of them, the same at every call.

    Raises UserError, which names the file and the line or row if there is one, for what is no parallel text.
    """
    remaining = corpus.limit
    empty = True
    for sources, targets in _reader(corpus)(corpus):
        if remaining is not None:
            sources, targets = sources[:remaining], targets[:remaining]
            remaining -= len(sources)
        if sources:
            empty = False
            yield sources, targets
        if remaining == 0:
            break
    if empty:
        raise UserError(f"the corpus {corpus_place(corpus)} is empty: give one with at least one pair or leave it out.")


def corpus_place(corpus: CorpusConfig) -> str:
    """Returns the path of the (source) files, or the name of the dataset, for messages."""
    return next(iter(_patterns(corpus).values()), None) or corpus.hub or corpus.builtin or corpus_name(corpus)


def corpus_name(corpus: CorpusConfig) -> str:
    """Returns `name` if it is set, otherwise the file's or dataset's name with characters that suit a folder."""
    if corpus.name:
        name = corpus.name
    elif corpus.hub:
        name = "-".join(part for part in (corpus.hub, corpus.config, corpus.split) if part)
    elif corpus.builtin:
        name = f"{corpus.builtin}-{corpus.split}"
    else:
        parts = reversed(Path(next(iter(_patterns(corpus).values()), "")).parts)
        names = (re.sub(r"[*?]|\[.*?\]", "", part).split(".")[0].strip("-_") for part in parts)
        name = next(filter(None, names), "")
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "corpus"


def check_sources(corpora: Iterable[CorpusConfig]) -> None:
    """Raises UserError for local files that are missing, not readable or no pairs of shards.

    Opens no file and asks no network.
    """
    for corpus in corpora:
        for pattern in _patterns(corpus).values():
            check_files(pattern)
        if corpus.source and corpus.target and not (is_remote(corpus.source) or is_remote(corpus.target)):
            pair_shards(corpus.source, corpus.target)


def source_identity(
    corpus: CorpusConfig, identity: Callable[[str, Callable[[str], Any]], Any] = lambda pattern, read: read(pattern)
) -> dict[str, Any]:
    """What must be unchanged for a corpus to hold the same pairs, JSON-able.

    The settings that choose the text, and place, size and time of its files in the order in which they are read; the
    content of a corpus that ships with dragoman. Asks the network for files at an address, and never for the Hub's
    datasets. `identity(pattern, read)` may return something else for the files of a pattern than `read(pattern)`.
    Raises UserError for missing files.
    """
    found: dict[str, Any] = {"limit": corpus.limit, "columns": corpus.columns, "languages": corpus.languages}
    if corpus.hub or corpus.builtin:
        found |= {"hub": corpus.hub, "builtin": corpus.builtin, "config": corpus.config, "split": corpus.split}
    if corpus.builtin:
        found["code"] = _builtin(corpus).CONTENT_VERSION
    read = dict.fromkeys(_patterns(corpus), _file_identities)
    if corpus.source and corpus.target:
        read["target"] = partial(_target_identities, corpus.source)
    return found | {way: identity(pattern, read[way]) for way, pattern in _patterns(corpus).items()}


def _file_identities(pattern: str) -> list[Any]:
    return [file_identity(path) for path in find_files(pattern)]


def _target_identities(source: str, target: str) -> list[Any]:
    """The target's files in the order of the source's; in sorted order if the source is gone."""
    found = _file_identities(target)
    with suppress(UserError):
        find_files(source)
        found = [file_identity(path) for _, path in pair_shards(source, target)]
    return found


def source_revision(corpus: CorpusConfig) -> str | None:
    """Returns the revision of a Hub dataset that this process reads, None for other corpora. Asks the Hub once."""
    return hub_revision(corpus.hub) if corpus.hub else None


def _patterns(corpus: CorpusConfig) -> dict[str, str]:
    """Returns the paths, globs or addresses of a corpus in files, by setting."""
    ways = ("source", "target", "tsv", "jsonl", "parquet")
    return {way: getattr(corpus, way) for way in ways if getattr(corpus, way) is not None}


def _reader(corpus: CorpusConfig) -> Callable[[CorpusConfig], Iterator[Block]]:
    readers = {"tsv": read_tsv, "jsonl": read_jsonl, "parquet": read_parquet, "hub": read_hub, "builtin": _read_builtin}
    return next((reader for way, reader in readers.items() if getattr(corpus, way) is not None), read_parallel)


def _builtin(corpus: CorpusConfig) -> ModuleType:
    if corpus.builtin != "phrasebook":
        raise UserError(f"`builtin` is {corpus.builtin!r}, but the only corpus that ships with dragoman is phrasebook.")
    return phrasebook


def _read_builtin(corpus: CorpusConfig) -> Iterator[Block]:
    splits = get_args(phrasebook.Split)
    if corpus.split not in splits:
        raise UserError(
            f"`split` of the builtin {corpus.builtin} is {corpus.split!r}: it must be one of {', '.join(splits)}."
        )
    pairs = iter(_builtin(corpus).pairs(corpus.split))
    while block := list(islice(pairs, _BLOCK_PAIRS)):
        yield [source for source, _ in block], [target for _, target in block]
