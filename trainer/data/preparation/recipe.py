"""All that decides what is in the stores and the trained tokenizers, and where they are kept."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer.data.config import CorpusConfig, DataConfig, FilterConfig, TokenizerConfig
from trainer.data.corpora.sources import corpus_name
from trainer.data.preparation.filters import PairFilter
from trainer.data.preparation.known_sources import KnownSources
from trainer.data.preparation.raw_parts import PartMaker
from trainer.data.stores.store import TEXT_DTYPE, Store, token_dtype
from trainer.data.text.encoding import PairEncoder
from trainer.data.text.sentences import Side
from trainer.data.text.tokenizer import TokenizerPair

FINGERPRINT_LENGTH = 16
"""Characters of a fingerprint in the name of a store."""

TRAINED_TOKENIZERS = "tokenizer-"
"""The beginning of the names of the folders of trained tokenizers, which are next to the stores."""

_STORE_FORMAT = 2


def store_directory(data: DataConfig, run_directory: str | os.PathLike[str]) -> Path:
    """The folder of the stores of a run: `data.cache`, or `data` in the run directory."""
    return Path(data.cache) if data.cache else Path(run_directory) / "data"


@dataclass(frozen=True)
class Recipe:
    """All that decides what the stores in the folder `cache` hold; without tokenizers they hold text."""

    data: DataConfig
    tokenizers: TokenizerPair | None
    cache: Path
    known: KnownSources

    def fingerprint(self, corpus: CorpusConfig) -> str:
        """Changes with everything that decides what is in the store of `corpus`."""
        parts: list[Any] = [_STORE_FORMAT, self.known.corpus_identity(corpus), _filters(self.data.filters, self.known)]
        if self.tokenizers is not None:
            parts += [self.data.max_length, self.tokenizers.fingerprint]
        return _fingerprint(parts)

    def path(self, corpus: CorpusConfig, fingerprint: str) -> Path:
        return self.cache / f"{corpus_name(corpus)}-{fingerprint[:FINGERPRINT_LENGTH]}"

    def open(self, corpus: CorpusConfig) -> Store | None:
        """The finished store of `corpus`, None if there is none. Raises UserError if the text is gone and unknown."""
        return Store.open(self.path(corpus, self.fingerprint(corpus)))

    @property
    def dtype(self) -> str:
        if self.tokenizers is None:
            return TEXT_DTYPE
        return token_dtype(max(self.tokenizers.source.vocab_size, self.tokenizers.target.vocab_size))

    def maker(self) -> PartMaker:
        """Raises UserError if the language identifier cannot be loaded."""
        encoder = None if self.tokenizers is None else PairEncoder(self.tokenizers, self.data.max_length)
        return PartMaker(PairFilter(self.data.filters), encoder, self.dtype)

    def texts(self, source: Side, target: Side) -> list[list[str]]:
        """[source, target] of stored pairs; of tokens, what the tokenizers decode."""
        sides = []
        for name, side in (("source", source), ("target", target)):
            end_N = side.length_N.cumsum()
            sentences = [side.token_L[end - length : end] for end, length in zip(end_N, side.length_N, strict=True)]
            if self.tokenizers is None:
                sides.append([sentence.tobytes().decode() for sentence in sentences])
            else:
                sides.append(getattr(self.tokenizers, name).decode(sentences))
        return [list(pair) for pair in zip(*sides, strict=True)]


def trained_tokenizers(data: DataConfig, tokenizer: TokenizerConfig, cache: Path, known: KnownSources) -> Path:
    """The folder of the tokenizers trained for a configuration; its name changes with all that decides them."""
    corpora = [[known.corpus_identity(corpus), corpus.weight] for corpus in data.train]
    settings = asdict(replace(tokenizer, sampling=None))
    if tokenizer.normalization == TokenizerConfig.normalization:
        del settings["normalization"]  # so that tokenizers trained before this setting existed are found
    identity = [_STORE_FORMAT, data.mode, corpora, data.temperature, _filters(data.filters, known), settings]
    return cache / f"{TRAINED_TOKENIZERS}{_fingerprint(identity)[:FINGERPRINT_LENGTH]}"


def _filters(filters: FilterConfig, known: KnownSources) -> list[Any]:
    """The settings of the filters and a hash of the language identifier's file."""
    place = (filters.language_id or "").rpartition(":")[0]
    code = known.identity(place, _file_hash) if place.endswith(".py") else hashlib.sha256(b"").hexdigest()
    return [asdict(filters), code]


def _file_hash(place: str) -> str:
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()


def _fingerprint(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
