"""Configuration of the tokenizer and of the data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """`path` names an existing SentencePiece model; without it one is trained from a sample of `data.train`.

    `joint: false` gives each language a model of its own, of `vocab_size` pieces each; existing ones are then named by
    `path` (source) and `target_path`. `byte_fallback` spells characters outside the vocabulary in bytes.
    `user_symbols` are pieces that are never split, such as language tags.
    `max_training_pairs` bounds the sample, which is drawn in the proportions of the mixture; training takes some 25
    bytes of memory for each of its characters (unigram; bpe: 10), 5 GB for a million pairs of ordinary length.
    `sampling` turns subword regularisation on, which needs `data.mode: stream`: for unigram the exponent alpha of the
    segmentations' probabilities (Kudo 2018: 0.1 to 0.5), for bpe the share of merges that is left out (BPE-dropout,
    Provilkov et al. 2020: 0.1).
    """

    kind: Literal["unigram", "bpe"] = "unigram"
    vocab_size: int = 8000
    joint: bool = True
    path: str | None = None
    target_path: str | None = None
    byte_fallback: bool = True
    user_symbols: tuple[str, ...] = ()
    character_coverage: float = 1.0
    max_training_pairs: int = 1_000_000
    sampling: float | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus, named in exactly one of six ways; each name may be a path, a glob over shards or an fsspec address.

    * `source` + `target`: line-aligned text files, plain or compressed (gz, bz2, xz, zst);
    * `tsv`: tab-separated text without quoting; * `jsonl`: one JSON object a line; * `parquet`: Parquet files;
    * `hub`: a dataset of the Hugging Face Hub (`wmt/wmt14`), with `config` (`de-en`) and `split`, streamed;
    * `builtin`: a corpus that ships with dragoman (`phrasebook`).

    `columns` = (source, target) names the two columns: by name (of a TSV file: that its first line gives) or, in a TSV
    file without such a line, by number from 1; TSV without `columns` has the source first and the target second.
    `languages` = (source, target) instead names the two entries of the Hub's nested column `translation`, or two
    columns called like the languages.
    `weight` scales how often each pair is seen: 2.0 reads the corpus twice in the time 1.0 reads it once.
    `limit` keeps only the first pairs.
    """

    source: str | None = None
    target: str | None = None
    tsv: str | None = None
    jsonl: str | None = None
    parquet: str | None = None
    hub: str | None = None
    builtin: str | None = None
    config: str | None = None
    split: str = "train"
    columns: tuple[str | int, str | int] | None = None
    languages: tuple[str, str] | None = None
    name: str | None = None
    weight: float = 1.0
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which training pairs are left out (validation text never is); null or false switches a filter off.

    `empty`: a side without any text. `max_length_ratio`: one side more than so many times as long as the other, in
    characters, each side counted 10 longer than it is, because short sentences differ more. `copies`: source equals
    target. `min_letters`: the least share of letters among the characters of either side, white space not counted.
    `duplicates`: all but the first of equal pairs of a corpus.
    `language_id`: a function `module:function` or `file.py:function` that takes a list of texts and returns a list of
    language codes; pairs whose codes are not `languages` = (source, target) are left out.
    Sentences longer than `data.max_length` tokens are always left out.
    """

    empty: bool = True
    max_length_ratio: float | None = 4.0
    copies: bool = True
    min_letters: float | None = 0.2
    duplicates: bool = True
    language_id: str | None = None
    languages: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Corpora and the shape of the micro-batches.

    `mode`: `store` tokenises everything beforehand; `stream` keeps a copy of the filtered text and tokenises on the
    fly, in `workers` processes for each training process: training starts within minutes, and `tokenizer.sampling` can
    draw anew in each pass.
    `temperature` T flattens the mixture: each corpus gets a share proportional to (weight times size)^(1/T).
    `max_length` bounds a training sentence in tokens on either side, eos included. `max_tokens` is the target budget
    of a micro-batch, `max_source_tokens` the source budget (None: chosen from the length ratio of the data).
    `micro_batches_per_step` counts over all ranks; it and `num_lanes` must be multiples of the world size.
    `window` is how many pairs of all corpora a lane mixes at a time; the pairs of each corpus are shuffled as a whole
    whatever it is. `prefetch` is how many micro-batches are made ahead.
    `cache` is the folder of the prepared data (None: `<run.directory>/data`).
    """

    train: tuple[CorpusConfig, ...] = ()
    valid: tuple[CorpusConfig, ...] = ()
    mode: Literal["store", "stream"] = "store"
    temperature: float = 1.0
    filters: FilterConfig = FilterConfig()
    max_length: int = 256
    max_tokens: int = 4096
    max_source_tokens: int | None = None
    micro_batches_per_step: int = 4
    num_lanes: int = 8
    window: int = 8192
    cache: str | None = None
    prefetch: int = 4
    workers: int = 2
