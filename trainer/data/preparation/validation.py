"""Validation sets: finite, and read as a whole."""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import corpus_name, read_pairs
from trainer.data.preparation.known_sources import KnownSources
from trainer.data.publishing import publish_file
from trainer.data.text.sentences import IdPair
from trainer.data.text.tokenizer import TokenizerPair
from trainer.errors import UserError

VALIDATION_COPIES = "valid-"
"""The beginning of the names of the copies of validation text, which are next to the stores."""


@dataclass(frozen=True)
class ValidationSet:
    """`references[n]` is the translation of `sources[n]`; `pairs[n]` are their ids, each with eos at its end.

    No pair is left out, not even empty or long ones: a score is of the whole set.
    """

    name: str
    sources: list[str]
    references: list[str]
    pairs: list[IdPair]


def copy_validation(corpus: CorpusConfig, directory: Path, known: KnownSources) -> None:
    """Keeps a copy of the set's text in `directory`, so that a resumed run reads the same text even if it is gone.

    Raises UserError for text that cannot be read.
    """
    if not (path := _copy_path(corpus, directory, known)).exists():
        publish_file(path, json.dumps(_read_text(corpus)).encode())


def has_copy(corpus: CorpusConfig, directory: Path, known: KnownSources) -> bool:
    """Whether `copy_validation` has nothing to do."""
    try:
        return _copy_path(corpus, directory, known).exists()
    except UserError:  # text that is gone and about which nothing is known
        return False


def load_validation(corpus: CorpusConfig, tokenizers: TokenizerPair, directory: Path | None = None) -> ValidationSet:
    """Encodes a set: its copy in `directory` if there is one, otherwise the corpus itself.

    Raises UserError for text that cannot be read.
    """
    path = _copy_path(corpus, directory, KnownSources(directory)) if directory else None
    sources, references = json.loads(path.read_bytes()) if path and path.exists() else _read_text(corpus)
    encoded = ((tokenizers.source, sources), (tokenizers.target, references))
    source_ids, target_ids = ([[*ids, side.eos_id] for ids in side.encode(lines)] for side, lines in encoded)
    return ValidationSet(corpus_name(corpus), sources, references, list(zip(source_ids, target_ids, strict=True)))


def _read_text(corpus: CorpusConfig) -> tuple[list[str], list[str]]:
    blocks = list(read_pairs(corpus))
    sources, references = (list(chain.from_iterable(side)) for side in zip(*blocks, strict=True))
    return sources, references


def _copy_path(corpus: CorpusConfig, directory: Path, known: KnownSources) -> Path:
    identity = json.dumps(known.corpus_identity(corpus), sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return directory / f"{VALIDATION_COPIES}{corpus_name(corpus)}-{fingerprint}.json"
