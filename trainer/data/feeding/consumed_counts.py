"""How much of each corpus a run has consumed.

Shape suffixes: N pairs of a micro-batch, C corpora, 4 what is counted.
"""

from typing import Any

import numpy as np

from trainer.data.feeding.lane_reader import Pairs
from trainer.data.text.sentences import IntArray

COUNTED = ("pairs", "source_tokens", "target_tokens", "too_long")
"""Pairs that were trained on, their tokens (eos counted), and pairs that were met but are longer than allowed."""


def count(pairs: Pairs, num_corpora: int) -> IntArray:
    """counts_4C of one micro-batch, in the order of `COUNTED`."""
    counts_4C = [
        np.bincount(pairs.corpus_N, minlength=num_corpora),
        np.bincount(pairs.corpus_N, pairs.source.length_N, num_corpora),
        np.bincount(pairs.corpus_N, pairs.target.length_N, num_corpora),
        np.bincount(pairs.too_long, minlength=num_corpora),
    ]
    return np.array(counts_4C).astype(np.int64)


def corpus_counts(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By corpus, what a merged state of the feed says of it since the start of the run.

    `passes` is how often the whole corpus has been read, in parts of a pass too; `rejected` counts by reason the pairs
    that preparation left out, once, and those that were too long whenever they were met.
    """
    lanes = state["lanes"].values()
    counts_4C = np.array([[lane["counts"][name] for name in COUNTED] for lane in lanes]).sum(axis=0)
    return {
        name: _describe(corpus, *counts_4C[:, number].tolist())
        for number, (name, corpus) in enumerate(zip(_names(state), state["corpora"], strict=True))
    }


def _describe(
    corpus: dict[str, Any], pairs: int, source_tokens: int, target_tokens: int, too_long: int
) -> dict[str, Any]:
    rejected = dict(corpus["rejected"])
    if too_long:
        rejected["too long"] = rejected.get("too long", 0) + too_long
    return {
        "pairs": pairs,
        "source_tokens": source_tokens,
        "target_tokens": target_tokens,
        "passes": (pairs + too_long) / corpus["num_pairs"],
        "rejected": rejected,
    }


def _names(state: dict[str, Any]) -> list[str]:
    """Of the corpora; where two are called alike, with their places in `data.train`."""
    names = [corpus["name"] for corpus in state["corpora"]]
    return [name if names.count(name) == 1 else f"{name}.{place}" for place, name in enumerate(names)]
