"""The built-in corpus `phrasebook`: French to English sentences from a small grammar.

A corpus for demonstrations and tests. It is small enough to learn in two minutes on a CPU, and word order and forms
differ between the languages. A score on it does not predict the score on real text.

The English sentence is a function of the French one. Where French leaves a choice, the corpus always makes the same:
`tu` and `vous` are `you`, `ce` is `this`, `son` belongs to the subject, `le` and `la` are persons with the verbs that
take them here. The English sentence decides to which split a pair belongs, so neither the source nor the target of a
held-out pair occurs in training.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from trainer.data.corpora.phrasebook import patterns
from trainer.data.corpora.phrasebook.grammar import Dice, Pair

Split = Literal["train", "valid", "test"]

CONTENT_VERSION = "8201ef8c6d633d1669d4639f4c64aee4d2758fb8786dc290b2ca5f9e70511431"
"""Part of the identity of data that was prepared from this corpus: change it with any sentence, and with nothing else.

A test compares a checksum of all sentences. The first value is what dragoman once computed from the files of code.
"""

# Held out by name: the sentence that the demonstration translates. The feminine form has the same English sentence.
DEMONSTRATION = (("Je suis étudiant.", "I am a student."), ("Je suis étudiante.", "I am a student."))
HELD_OUT_TARGET = "I am a student."

# How many sentences are drawn from each pattern; draws that repeat a sentence are dropped.
PATTERNS: tuple[tuple[Callable[[Dice], Pair], int], ...] = (
    (patterns.profession, 5000),
    (patterns.mood, 3000),
    (patterns.state, 900),
    (patterns.age, 2000),
    (patterns.action, 6000),
    (patterns.habit, 1500),
    (patterns.weekday, 1500),
    (patterns.movement, 2500),
    (patterns.residence, 2000),
    (patterns.object_pronoun, 2000),
    (patterns.giving, 1500),
    (patterns.infinitive, 4000),
    (patterns.taste, 1200),
    (patterns.drinking, 700),
    (patterns.language, 600),
    (patterns.owning, 2500),
    (patterns.quality, 2500),
    (patterns.possessor, 2000),
    (patterns.comparison, 2000),
    (patterns.opinion, 1500),
    (patterns.existence, 2500),
    (patterns.whereabouts, 600),
    (patterns.quantity, 1000),
    (patterns.name_or_age, 150),
    (patterns.price, 1500),
    (patterns.clock, 700),
)


def fingerprint(text: str) -> int:
    """Unlike `hash()`, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@functools.cache
def corpus() -> dict[str, str]:
    """Source to target, well mixed, in the same order on every machine."""
    found = dict(DEMONSTRATION)
    for seed, (pattern, draws) in enumerate(PATTERNS):
        dice = Dice(seed)
        for _ in range(draws):
            source, target = pattern(dice)
            assert found.setdefault(source, target) == target, f"{source!r} has two translations"
    return dict(sorted(found.items(), key=lambda pair: fingerprint(pair[0])))


def split_of(target: str) -> Split:
    """3.75% of the English sentences are test, 1.25% valid."""
    share = fingerprint(target) % 10_000
    if share < 375 or target == HELD_OUT_TARGET:
        return "test"
    return "valid" if share < 500 else "train"


def pairs(split: Split) -> Iterator[Pair]:
    """(French, English) in a fixed, mixed order."""
    return ((source, target) for source, target in corpus().items() if split_of(target) == split)


def write_split(split: Split, directory: Path) -> None:
    """Writes `split`.fr and `split`.en, line-aligned text as any other corpus."""
    directory.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(("fr", "en")):
        lines = [pair[side] + "\n" for pair in pairs(split)]
        (directory / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")
