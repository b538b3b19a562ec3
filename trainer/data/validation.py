"""Finite sets of pairs to evaluate on, whole, shared out by rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.batch import PackedBatch
from trainer.data.config import CorpusConfig
from trainer.data.feed import Share
from trainer.data.packing import Side, SpecialIds, pack
from trainer.data.sources import corpus_name, read_pairs
from trainer.data.tokenizer import Tokenizer

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


def load_validation(corpus: CorpusConfig, tokenizer: Tokenizer) -> ValidationSet:
    """Reads and encodes a set; UserError for what cannot be read."""
    sources: list[str] = []
    references: list[str] = []
    for source_block, reference_block in read_pairs(corpus):
        sources += source_block
        references += reference_block
    source_ids, target_ids = ([[*ids, tokenizer.eos_id] for ids in tokenizer.encode(s)] for s in (sources, references))
    return ValidationSet(corpus_name(corpus), sources, references, list(zip(source_ids, target_ids, strict=True)))


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
