"""Configuration of the tokenizer and of the data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """`path` names an existing SentencePiece model; without it one is trained from `data.train` into the run."""

    kind: Literal["unigram", "bpe"] = "unigram"
    vocab_size: int = 8000
    path: str | None = None
    character_coverage: float = 1.0
    max_training_pairs: int = 5_000_000


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus, named in exactly one of four ways.

    * `source` + `target`: line-aligned text files, plain or compressed;
    * `builtin`: a corpus that ships with dragoman (`phrasebook`);
    * `parquet`: local Parquet file(s) with a `translation` column ({language: text}) or two columns;
    * `hub`: a dataset of the Hugging Face Hub (`wmt/wmt14`), with `config` (`de-en`) and `split`.

    For `parquet` and `hub`, `languages` = (source, target) names the two entries of `translation` or two columns.
    `weight` scales how often each pair is seen: 2.0 reads the corpus twice in the time 1.0 reads it once.
    `limit` keeps only the first pairs.
    """

    source: str | None = None
    target: str | None = None
    builtin: str | None = None
    parquet: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    languages: tuple[str, str] | None = None
    name: str | None = None
    weight: float = 1.0
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Corpora and the shape of the micro-batches.

    `max_length` bounds a training sentence in tokens on either side, eos included. `max_tokens` is the target budget
    of a micro-batch, `max_source_tokens` the source budget (None: chosen from the length ratio of the data).
    `micro_batches_per_step` counts over all ranks; it and `num_lanes` must be multiples of the world size.
    `window` is how many pairs a lane reads and shuffles at a time.
    `cache` is the folder of the token store (None: `<run.directory>/data`).
    """

    train: tuple[CorpusConfig, ...] = ()
    valid: tuple[CorpusConfig, ...] = ()
    max_length: int = 256
    max_tokens: int = 4096
    max_source_tokens: int | None = None
    micro_batches_per_step: int = 4
    num_lanes: int = 8
    window: int = 8192
    cache: str | None = None
    prefetch: int = 4
