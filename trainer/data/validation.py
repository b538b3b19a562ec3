"""Finite sets of pairs to evaluate on, whole, shared out by rank."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from model.batch import PackedBatch
from trainer.data.config import CorpusConfig
from trainer.data.feed import Share
from trainer.data.packing import pack
from trainer.data.publishing import publish_file
from trainer.data.sentences import Side
from trainer.data.sources import corpus_name, read_pairs, source_identity
from trainer.data.tokenizer import SpecialIds, TokenizerPair

IdPair = tuple[list[int], list[int]]


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
    return directory / f"valid-{corpus_name(corpus)}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def validation_batches(pairs: Sequence[IdPair], ids: SpecialIds, max_tokens: int, share: Share) -> list[PackedBatch]:
    """This rank's part of the pairs (every world_size-th), in batches of at most `max_tokens` tokens on either side.

    A pair that is longer makes a batch of its own. Ranks may have different numbers of batches, or none: there must
    be no collective between them.
    """
    groups: list[list[IdPair]] = []
    room = (0, 0)
    for pair in pairs[share.rank :: share.world_size]:
        if len(pair[0]) > room[0] or len(pair[1]) > room[1]:
            groups.append([])
            room = (max_tokens, max_tokens)
        groups[-1].append(pair)
        room = (room[0] - len(pair[0]), room[1] - len(pair[1]))
    return [pack(_side([p[0] for p in group]), _side([p[1] for p in group]), ids) for group in groups]


def _side(sentences: list[list[int]]) -> Side:
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    return Side(np.array([token for sentence in sentences for token in sentence], dtype=np.int64), lengths)
