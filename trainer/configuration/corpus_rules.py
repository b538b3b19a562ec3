"""Rules between the settings of one corpus."""

import math
from collections import Counter

from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.corpora.sources import corpus_name
from trainer.errors import UserError


def check_corpora(data: DataConfig) -> None:
    """Raises UserError for the first corpus whose settings do not fit each other, or that shares a name."""
    for name, corpora in (("train", data.train), ("valid", data.valid)):
        for index, corpus in enumerate(corpora):
            _check_corpus(f"data.{name}.{index}", corpus)
    names = Counter(map(corpus_name, data.valid))
    for name, count in names.items():
        if count > 1:
            raise UserError(
                f"`data.valid` must give every corpus its own `name`, because scores are reported under it, "
                f"but {name!r} occurs {count} times."
            )


def _check_corpus(path: str, corpus: CorpusConfig) -> None:
    if (corpus.source is None) != (corpus.target is None):
        missing, other = ("source", "target") if corpus.source is None else ("target", "source")
        raise UserError(
            f"`{path}.{missing}` is missing: text of one language alone is no corpus, so give the file that goes line "
            f"by line with `{path}.{other}`."
        )
    ways = ("source", "tsv", "jsonl", "parquet", "hub", "builtin")
    named = {"source": "`source` and `target`"} | {way: f"`{way}`" for way in ways[1:]}
    given = [way for way in ways if getattr(corpus, way) is not None]
    if len(given) != 1:
        raise UserError(
            f"`{path}` must name its text in exactly one way, {', '.join(named.values())}, but gives "
            f"{' and '.join(named[way] for way in given) or 'none of them'}."
        )
    _check_choice_of_text(path, corpus, given[0])
    _check_columns(path, corpus, given[0])
    if not 0 < corpus.weight < math.inf:
        raise UserError(
            f"`{path}.weight` must be greater than 0, but is {corpus.weight}; leave the corpus out instead."
        )
    if corpus.limit is not None and corpus.limit < 1:
        raise UserError(f"`{path}.limit` must be at least 1, or null for all pairs, but is {corpus.limit}.")


def _check_choice_of_text(path: str, corpus: CorpusConfig, way: str) -> None:
    """Settings that choose a part of what was named belong to the ways of naming that have such parts."""
    meaning = {
        "columns": ("tsv", "jsonl", "parquet", "hub"),
        "languages": ("jsonl", "parquet", "hub"),
        "config": ("hub",),
        "split": ("hub", "builtin"),
    }
    for setting, ways in meaning.items():
        value, default = getattr(corpus, setting), "train" if setting == "split" else None
        if value != default and way not in ways:
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(
                f"`{path}.{setting}` is {shown!r}, but means nothing where the text is named by `{way}`, only by "
                f"{', '.join(ways)}: remove it."
            )
    if way in meaning["languages"]:
        given = [name for name in ("columns", "languages") if getattr(corpus, name) is not None]
        if len(given) != 1:
            raise UserError(
                f"`{path}.languages` {'is missing' if not given else 'and `columns` are both given'}: name what to "
                f"read by one of `languages`, such as [en, de] of the column `translation`, and `columns`."
            )


def _check_columns(path: str, corpus: CorpusConfig, way: str) -> None:
    columns = corpus.columns or corpus.languages
    if columns is None:
        return
    setting = "columns" if corpus.columns else "languages"
    if columns[0] == columns[1]:
        raise UserError(f"`{path}.{setting}` must be [source, target], two different ones, but is {list(columns)}.")
    numbered = [column for column in columns if isinstance(column, int)]
    if numbered and (way != "tsv" or len(numbered) == 1 or min(numbered) < 1):
        rule = "two names, or two numbers from 1" if way == "tsv" else f"two names, as columns of `{way}` have them"
        raise UserError(f"`{path}.columns` must be {rule}, but is {list(columns)}.")
