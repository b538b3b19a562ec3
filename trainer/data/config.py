"""Configuration of the tokenizer and of the data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The SentencePiece model: an existing one, or one that is trained on a sample of `data.train`."""

    kind: Literal["unigram", "bpe"] = "unigram"
    """The algorithm of a new model."""
    vocab_size: int = 8000
    """Number of pieces of a new model, special ones included."""
    joint: bool = True
    """One model for both languages. If false, each language has a model of its own with `vocab_size` pieces."""
    path: str | None = None
    """An existing model: for both languages, or with `joint: false` for the source."""
    target_path: str | None = None
    """An existing model for the target, with `joint: false`."""
    byte_fallback: bool = True
    """Spells characters outside the vocabulary as bytes, instead of replacing them by the unknown piece."""
    user_symbols: tuple[str, ...] = ()
    """Pieces that are never split, such as language tags."""
    character_coverage: float = 1.0
    """Share of the sample's characters that get a piece; the rarest others are left to `byte_fallback`."""
    max_training_pairs: int = 1_000_000
    """Size of the sample, drawn in the proportions of the corpora. Unigram takes some 25 bytes of memory per character
    of it, bpe 10: up to 5 GB for a million pairs of ordinary length."""
    normalization: Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"] = "nmt_nfkc"
    """SentencePiece's rule by which a new model changes text before it splits it. nfkc replaces what Unicode calls
    compatible (`，` by `,`, `½` by `1⁄2`), nmt_ also unusual spaces and invisible characters, _cf makes everything
    lower case; identity changes no character. `dragoman data` counts the target lines that no translation can equal."""
    sampling: float | None = None
    """Draws another segmentation of a sentence in every pass; needs `data.mode: stream`. For unigram the exponent of
    the probabilities (Kudo 2018: 0.1 to 0.5), for bpe the share of merges left out (Provilkov et al. 2020: 0.1)."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus, named in exactly one of six ways: `source` and `target`, `tsv`, `jsonl`, `parquet`, `hub` or
    `builtin`. File names may be paths, patterns over shards (`train.*.en.gz`) or addresses (`s3://…`)."""

    source: str | None = None
    """Text files, plain or compressed (gz, bz2, xz, zst), line-aligned with `target`."""
    target: str | None = None
    """The translations of the lines of `source`."""
    tsv: str | None = None
    """Tab-separated text without quoting."""
    jsonl: str | None = None
    """Text with one JSON object per line."""
    parquet: str | None = None
    """Parquet files."""
    hub: str | None = None
    """A dataset of the Hugging Face Hub, such as wmt/wmt14."""
    builtin: str | None = None
    """A corpus that ships with dragoman: phrasebook."""
    config: str | None = None
    """The configuration of a dataset of the Hub, such as de-en."""
    split: str = "train"
    """The split of a dataset of the Hub or of a built-in corpus."""
    columns: tuple[str | int, str | int] | None = None
    """[source, target]: the two columns by name (TSV: the first line has the names), or in TSV files without names by
    number from 1. TSV without `columns` has the source first and the target second."""
    languages: tuple[str, str] | None = None
    """[source, target]: instead of `columns`, two entries of the column `translation`, or two columns so named."""
    name: str | None = None
    """The name in reports and scores. By default it is made from the file names."""
    weight: float = 1.0
    """How often each pair is read: with 2.0 twice in the time in which a corpus with 1.0 is read once. Above 0."""
    limit: int | None = None
    """Reads only this many pairs from the start."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which training pairs are left out, besides those longer than `data.max_length`. Validation text is kept whole."""

    empty: bool = True
    """Pairs in which a side has no text."""
    max_length_ratio: float | None = 4.0
    """Pairs in which one side has more than this many times the characters of the other. Both sides are counted 10
    longer than they are, since short sentences differ more. null: off."""
    copies: bool = True
    """Pairs whose source equals the target."""
    min_letters: float | None = 0.2
    """Pairs in which a side has a smaller share of letters in its characters, white space not counted. null: off."""
    duplicates: bool = True
    """All but the first of equal pairs of a corpus."""
    language_id: str | None = None
    """A function, `module:function` or `file.py:function`, that takes a list of texts and returns language codes."""
    languages: tuple[str, str] | None = None
    """[source, target]: the codes that `language_id` must find; other pairs are left out."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Corpora, and the size and order of the micro-batches."""

    train: tuple[CorpusConfig, ...] = ()
    """The training corpora, each with the settings under `data.train.0`."""
    valid: tuple[CorpusConfig, ...] = ()
    """The validation corpora, with the same settings. The first decides which checkpoint is best."""
    mode: Literal["store", "stream"] = "store"
    """`store` tokenises everything before training. `stream` keeps the filtered text and tokenises during training, so
    that training starts within minutes and `tokenizer.sampling` can be used."""
    temperature: float = 1.0
    """T > 1 raises the share of small corpora: each gets a share proportional to (weight times size)^(1/T)."""
    filters: FilterConfig = FilterConfig()
    max_length: int = 256
    """The longest training sentence on either side in tokens, end of sentence included; longer pairs are left out."""
    max_tokens: int = 4096
    """Target tokens in a micro-batch, at most. At least `max_length`."""
    max_source_tokens: int | None = None
    """Source tokens in a micro-batch, at most. By default it follows from the length ratio of the data."""
    micro_batches_per_step: int = 4
    """Micro-batches in one optimizer step, over all ranks together. A multiple of the number of ranks."""
    num_lanes: int = 8
    """Independent streams that the data is dealt to. A multiple of the number of ranks."""
    window: int = 8192
    """Pairs of all corpora that a lane mixes at a time. Each corpus is also shuffled as a whole."""
    cache: str | None = None
    """The folder of the prepared data. By default `data` in the run directory."""
    prefetch: int = 4
    """Micro-batches that are made ahead."""
    workers: int = 2
    """Processes that tokenise for each rank, in the mode `stream`."""
