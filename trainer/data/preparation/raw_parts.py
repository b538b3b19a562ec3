"""Parts: a fixed number of raw pairs each, filtered and encoded, in a file that is complete or absent.

Shape suffixes: N pairs kept, L their items.
"""

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.preparation.filters import REASONS, PairFilter
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import Side
from trainer.files import writing_atomically

NUM_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 200


@dataclass
class Rejections:
    """How many pairs were left out, by reason, and the first few of each as [source, target]."""

    counts: Counter[str]
    examples: dict[str, list[list[str]]]

    @classmethod
    def none(cls) -> "Rejections":
        return cls(Counter(), {})

    def add(self, reason: str, count: int, examples: Sequence[Sequence[str]]) -> None:
        """Counts more pairs, which come after those counted before. Long texts are cut in examples."""
        self.counts[reason] += count
        shown = self.examples.setdefault(reason, [])
        shown += [[_cut(text) for text in pair] for pair in examples[: NUM_EXAMPLES - len(shown)]]

    def add_all(self, other: "Rejections") -> None:
        for reason, count in other.counts.items():
            self.add(reason, count, other.examples[reason])


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[: _EXAMPLE_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class Part:
    """The pairs kept of some raw pairs: both sides, and a 64-bit hash of the text of each pair."""

    source: Side
    target: Side
    hash_N: NDArray[np.uint64]
    rejections: Rejections


@dataclass(frozen=True)
class PartMaker:
    """Makes parts of raw pairs. Can be pickled. Without an encoder, parts hold the text as bytes of UTF-8."""

    pair_filter: PairFilter
    encoder: PairEncoder | None
    dtype: str

    def make(self, sources: Sequence[str], targets: Sequence[str]) -> Part:
        """Filters and encodes. Raises UserError if the user's language identifier fails."""
        rejections = Rejections.none()
        code_N = self.pair_filter.judge(sources, targets)
        for code in np.unique(code_N[code_N > 0]).tolist():
            rejected = np.flatnonzero(code_N == code)
            shown = [(sources[n], targets[n]) for n in rejected[:NUM_EXAMPLES].tolist()]
            rejections.add(REASONS[code], len(rejected), shown)
        kept = np.flatnonzero(code_N == 0).tolist()
        source_bytes, target_bytes = (_utf8([side[n] for n in kept]) for side in (sources, targets))
        hash_N = hash_pairs(source_bytes, target_bytes)
        if self.encoder is None:
            return Part(_text_side(source_bytes), _text_side(target_bytes), hash_N, rejections)
        encoded = self.encoder.encode(source_bytes, target_bytes)
        too_long = np.flatnonzero(~encoded.kept_N)
        if len(too_long):
            shown = [(sources[kept[n]], targets[kept[n]]) for n in too_long[:NUM_EXAMPLES].tolist()]
            rejections.add("too long", len(too_long), shown)
        return Part(encoded.source, encoded.target, hash_N[encoded.kept_N], rejections)


def _utf8(texts: Sequence[str]) -> list[bytes]:
    # JSON can put half a surrogate pair into a text, which UTF-8 cannot encode: it becomes a question mark.
    return [text.encode("utf-8", "replace") for text in texts]


def _text_side(texts: Sequence[bytes]) -> Side:
    length_N = np.fromiter(map(len, texts), np.int64, len(texts))
    return Side(np.frombuffer(b"".join(texts), np.uint8), length_N)


def hash_pairs(sources: Sequence[bytes], targets: Sequence[bytes]) -> NDArray[np.uint64]:
    """hash_N of the pairs' text, the same on every machine. It includes the length of the source, so that pairs with
    the same text divided differently differ."""
    digests = (
        hashlib.blake2b(b"%d " % len(source) + source + target, digest_size=8).digest()
        for source, target in zip(sources, targets, strict=True)
    )
    return np.frombuffer(b"".join(digests), "<u8")


class PartFile:
    """A part on disk: an uncompressed zip file of arrays, whose checksums reveal a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, part: Part, dtype: str) -> None:
        """Writes the whole part or nothing, even if the process is killed meanwhile. Raises OSError."""
        report = [dict(part.rejections.counts), part.rejections.examples]
        arrays: dict[str, NDArray[Any]] = {
            "hash_N": part.hash_N,
            "report": np.frombuffer(json.dumps(report).encode(), np.uint8),
        }
        for name, side in (("source", part.source), ("target", part.target)):
            arrays[f"{name}_items"] = side.token_L.astype(dtype, copy=False)
            arrays[f"{name}_lengths"] = side.length_N
        with writing_atomically(self.path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def is_sound(self) -> bool:
        """Whether the file exists and is undamaged; reads all of it."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.testzip() is None
        except (FileNotFoundError, zipfile.BadZipFile):
            return False

    def hashes(self) -> NDArray[np.uint64]:
        """hash_N; reads nothing else."""
        hash_N: NDArray[np.uint64] = self._array("hash_N")
        return hash_N

    def rejections(self) -> Rejections:
        counts, examples = json.loads(self._array("report").tobytes())
        return Rejections(Counter(counts), examples)

    def sides(self) -> tuple[Side, Side]:
        with np.load(self.path) as arrays:
            source, target = (Side(arrays[f"{name}_items"], arrays[f"{name}_lengths"]) for name in ("source", "target"))
        return source, target

    def _array(self, name: str) -> NDArray[Any]:
        with np.load(self.path) as arrays:
            return arrays[name]  # type: ignore[no-any-return]
