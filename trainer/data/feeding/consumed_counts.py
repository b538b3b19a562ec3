"""How much of each corpus a run has consumed.

Shape suffixes: N pairs of a micro-batch, C corpora, 4 what is counted.
"""

from typing import Any

import numpy as np

from trainer.data.feeding.lane_reader import Pairs
from trainer.data.text.sentences import IntArray

COUNTED = ("pairs", "source_tokens", "target_tokens", "too_long")
"""Pairs trained on, their tokens (eos included), and pairs skipped because they are longer than allowed."""


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
    """What has been read of each corpus since the start of the run, by its name, from a merged state of the feed.

    `passes` is how often the corpus has been read, a fraction. `rejected` counts by reason the pairs that preparation
    left out, once each, and those that were too long, each time they were met.
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
    """The names of the corpora; equal ones get their position in `data.train` appended."""
    names = [corpus["name"] for corpus in state["corpora"]]
    return [name if names.count(name) == 1 else f"{name}.{place}" for place, name in enumerate(names)]
