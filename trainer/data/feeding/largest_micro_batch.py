"""The micro-batch that takes the most memory."""

import numpy as np

from trainer.data.feeding.budget import Budget, ceil_div
from trainer.data.feeding.packing import MicroBatch, pack
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import SpecialIds


def largest_micro_batch(budget: Budget, ids: SpecialIds, static: bool) -> MicroBatch:
    """Both sides full of the longest sentences, since attention grows with the square of their length.

    With `static` it has the one shape of the run.
    """
    sizes = budget.max_source_tokens, budget.max_target_tokens
    num_sentences = max(ceil_div(size, budget.max_length) for size in sizes)
    # Any id will do, except the target's padding, which the loss leaves out.
    source, target = (
        _side(size, num_sentences, i) for size, i in zip(sizes, (ids.source_pad_id, ids.bos_id), strict=True)
    )
    places_N = np.zeros(num_sentences, np.int64)
    batch = pack(source, target, ids, budget if static else None)
    return MicroBatch(batch, index=-1, lane=-1, seed=0, pair_ids=(places_N, places_N))


def _side(num_tokens: int, num_sentences: int, token: int) -> Side:
    length_N = np.full(num_sentences, num_tokens // num_sentences)
    length_N[: num_tokens % num_sentences] += 1
    return Side(np.full(num_tokens, token, np.int32), length_N)
