"""Target text that no translation can produce: what decode(encode(line)) does not give back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from trainer.data.config import CorpusConfig
from trainer.data.corpora.sources import read_pairs
from trainer.data.inspection.spread import spread
from trainer.data.stores.store import Store
from trainer.data.text.tokenizer import Tokenizer
from trainer.errors import UserError

_LINES_READ = 50_000
_LINES_CHECKED = 10_000
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class RoundTrip:
    """Of `num_lines` target lines, `num_changed` are not what decode(encode(line)) gives.

    `examples` shows the first few as (before, after).
    """

    num_lines: int
    num_changed: int
    examples: list[tuple[str, str]]


def target_round_trip(corpus: CorpusConfig, store: Store, tokenizer: Tokenizer) -> RoundTrip | None:
    """Checks up to 10,000 target lines of a corpus.

    Takes them from all over a text store. A token store has lost the text, so they are taken from the first 50,000
    lines of the corpus itself; None if that is gone.
    """
    if store.manifest.kind == "text":
        texts = store.target.texts(spread(store.manifest.num_pairs, _LINES_CHECKED))
        return round_trip([text.decode() for text in texts], tokenizer)
    try:
        targets = list(islice(chain.from_iterable(targets for _, targets in read_pairs(corpus)), _LINES_READ))
    except UserError:
        return None
    return round_trip([targets[n] for n in spread(len(targets), _LINES_CHECKED).tolist()], tokenizer)


def round_trip(lines: Sequence[str], tokenizer: Tokenizer) -> RoundTrip:
    """Encodes and decodes the lines that hold any text."""
    # JSON can smuggle half a surrogate pair into a text, which preparation replaces by a question mark.
    lines = [line.encode("utf-8", "replace").decode() for line in lines if line.strip()]
    changed = [
        pair for pair in zip(lines, tokenizer.decode(tokenizer.encode(lines)), strict=True) if pair[0] != pair[1]
    ]
    return RoundTrip(len(lines), len(changed), changed[:_NUM_EXAMPLES])
