"""Whether a text store, which is tokenised on the fly, has pairs that are short enough.

Shape suffix: N pairs of a corpus.
"""

from collections.abc import Sequence

import numpy as np

from trainer.data.config import DataConfig
from trainer.data.order.mixture import mixture_shares
from trainer.data.stores.store import Store
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import IntArray
from trainer.errors import UserError

_NUM_MEASURED = 4096
_LEAST_MEASURED = 64


def measured_rows(num_pairs: int, share: float) -> IntArray:
    """row_N of the pairs to measure in a corpus with this share of the mixture: always the same, spread evenly."""
    count = min(num_pairs, max(_LEAST_MEASURED, round(_NUM_MEASURED * share)))
    return np.arange(count) * num_pairs // count


def check_text_lengths(stores: Sequence[Store], data: DataConfig, encoder: PairEncoder) -> None:
    """Raises UserError if all measured pairs of a text store are too long."""
    sizes = [store.manifest.num_pairs for store in stores]
    shares = mixture_shares([corpus.weight for corpus in data.train], sizes, data.temperature)
    for corpus, (store, share) in enumerate(zip(stores, shares.tolist(), strict=True)):
        row_N = measured_rows(store.manifest.num_pairs, share)
        if not encoder.encode(store.source.texts(row_N), store.target.texts(row_N)).kept_N.any():
            raise all_too_long(corpus, store.manifest.name, len(row_N))


def all_too_long(corpus: int, name: str, num_measured: int) -> UserError:
    """The error of corpus number `corpus` of `data.train`."""
    return UserError(
        f"`data.train.{corpus}` ({name}) cannot be used: {num_measured:,} pairs from all over it are all longer than "
        "`data.max_length` tokens, so raise that or leave the corpus out."
    )
