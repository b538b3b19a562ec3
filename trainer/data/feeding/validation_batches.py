"""Validation sets in batches, divided among the ranks."""

from collections.abc import Sequence

import numpy as np

from model.batch import PackedBatch
from trainer.data.feeding.packing import pack
from trainer.data.order.partition import Partition
from trainer.data.text.sentences import IdPair, Side
from trainer.data.text.tokenizer import SpecialIds


def validation_batches(
    pairs: Sequence[IdPair], ids: SpecialIds, max_tokens: int, max_length: int, partition: Partition
) -> list[PackedBatch]:
    """This rank's part of the pairs (every world_size-th), in batches of at most `max_tokens` tokens on either side.

    A pair with a sentence of more than `max_length` tokens makes a batch of its own, because attention may pad every
    sentence of a batch to the longest. Ranks may have different numbers of batches, or none: there must be no
    collective between them.
    """
    groups: list[list[IdPair]] = []
    room = (0, 0)
    for pair in pairs[partition.rank :: partition.world_size]:
        is_long = max(len(pair[0]), len(pair[1])) > max_length
        if is_long or len(pair[0]) > room[0] or len(pair[1]) > room[1]:
            groups.append([])
            room = (max_tokens, max_tokens)
        groups[-1].append(pair)
        room = (0, 0) if is_long else (room[0] - len(pair[0]), room[1] - len(pair[1]))
    return [pack(_side([p[0] for p in group]), _side([p[1] for p in group]), ids) for group in groups]


def _side(sentences: list[list[int]]) -> Side:
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    return Side(np.array([token for sentence in sentences for token in sentence], dtype=np.int64), lengths)
