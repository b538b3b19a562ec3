"""Finite sets of pairs to evaluate on, whole."""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import corpus_name, read_pairs, source_identity
from trainer.data.publishing import publish_file
from trainer.data.text.sentences import IdPair
from trainer.data.text.tokenizer import TokenizerPair

VALIDATION_COPIES = "valid-"
"""How the names of the copies of validation text begin, which lie beside the stores."""


@dataclass(frozen=True)
class ValidationSet:
    """`sources[n]` is to be translated as `references[n]`; `pairs[n]` are their ids, each with eos at its end.

    No pair is left out, not the empty or long ones either: a score is of the whole set.
    """

    name: str
    sources: list[str]
    references: list[str]
    pairs: list[IdPair]


def copy_validation(corpus: CorpusConfig, directory: Path) -> None:
    """Keeps a copy of the set's text in `directory`, so that a resumed run needs no network and reads the same text.

    Raises UserError for what cannot be read.
    """
    if not (path := _copy_path(corpus, directory)).exists():
        publish_file(path, json.dumps(_read_text(corpus)).encode())


def load_validation(corpus: CorpusConfig, tokenizers: TokenizerPair, directory: Path | None = None) -> ValidationSet:
    """Encodes a set: the copy in `directory` where there is one, otherwise the corpus itself.

    Raises UserError for what cannot be read.
    """
    path = _copy_path(corpus, directory) if directory else None
    sources, references = json.loads(path.read_bytes()) if path and path.exists() else _read_text(corpus)
    encoded = ((tokenizers.source, sources), (tokenizers.target, references))
    source_ids, target_ids = ([[*ids, side.eos_id] for ids in side.encode(lines)] for side, lines in encoded)
    return ValidationSet(corpus_name(corpus), sources, references, list(zip(source_ids, target_ids, strict=True)))


def _read_text(corpus: CorpusConfig) -> tuple[list[str], list[str]]:
    blocks = list(read_pairs(corpus))
    sources, references = (list(chain.from_iterable(side)) for side in zip(*blocks, strict=True))
    return sources, references


def _copy_path(corpus: CorpusConfig, directory: Path) -> Path:
    identity = json.dumps(source_identity(corpus), sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return directory / f"{VALIDATION_COPIES}{corpus_name(corpus)}-{fingerprint}.json"
