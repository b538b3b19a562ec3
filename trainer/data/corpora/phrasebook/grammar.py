"""Grammar of the phrasebook: sentence types, tenses, noun phrases and the contractions of French.

French is first put together word by word (`je aime`, `de le parc`) and then contracted (`j'aime`, `du parc`).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from trainer.data.corpora.phrasebook import words
from trainer.data.corpora.phrasebook.words import Adjective, Determiner, Noun, Subject, Verb

Pair = tuple[str, str]
T = TypeVar("T")

VOWEL = "(?=[aeiouyhâéêèîôœAEIOUÉ])"
ELISION = re.compile(rf"\b(j|n|d|l|m|t|qu)(?:e|(?<=l)a) {VOWEL}")
BEFORE_VOWEL = re.compile(rf"\b(?:([mts])a|(ce)) {VOWEL}")
CONTRACTION = re.compile(r"\b(de|à) (les?) ")
CONTRACTED = {"de le": "du ", "de les": "des ", "à le": "au ", "à les": "aux "}
AN = re.compile(r"\ba (?=[aeiou])")


class Dice:
    """Draws that depend on nothing but the seed: `random()` alone is promised to stay the same over Python versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def chance(self, probability: float) -> bool:
        return self._random() < probability


@dataclass(frozen=True)
class Clause:
    """A predicate for one subject, ready for every sentence type.

    French: `clitic` and finite `verb`, between which and `complement` pas stands. English: `finite` in a statement
    (`is eating`, `eats`), `auxiliary` and `nonfinite` in negation and question (`is` + `eating`, `does` + `eat`).
    """

    verb: str
    complement: str
    finite: str
    auxiliary: str
    nonfinite: str
    clitic: str = ""


def sentence(french: str, english: str, mark: str = ".") -> Pair:
    french = ELISION.sub(r"\1'", french)
    french = BEFORE_VOWEL.sub(lambda m: f"{m[1]}on " if m[1] else "cet ", french)
    french = CONTRACTION.sub(lambda m: CONTRACTED[m[0].rstrip()], french)
    english = AN.sub("an ", english)
    # French typography sets a question mark off by a space.
    end = mark if mark == "." else f" {mark}"
    return french[0].upper() + french[1:] + end, english[0].upper() + english[1:] + mark


def join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def statement(subject: Subject, clause: Clause) -> Pair:
    french = join(subject.french, clause.clitic, clause.verb, clause.complement)
    return sentence(french, f"{subject.english} {clause.finite}")


def negation(subject: Subject, clause: Clause) -> Pair:
    french = join(subject.french, "ne", clause.clitic, clause.verb, "pas", clause.complement)
    english = f"{subject.english} {clause.auxiliary} not {clause.nonfinite}".replace("can not", "cannot")
    return sentence(french, english)


def question(subject: Subject, clause: Clause) -> Pair:
    french = join("est-ce que", subject.french, clause.clitic, clause.verb, clause.complement)
    return sentence(french, f"{clause.auxiliary} {subject.english} {clause.nonfinite}", "?")


def inversion(subject: Subject, clause: Clause) -> Pair:
    """`Parle-t-il ?`, and with a noun `Marie parle-t-elle ?`; je is hardly ever inverted and asks with est-ce que."""
    if subject.person == 0:
        return question(subject, clause)
    link = "-t-" if subject.person == 2 and clause.verb[-1] in "ae" else "-"
    noun = "" if subject.is_pronoun else subject.french
    french = join(noun, clause.clitic, f"{clause.verb}{link}{subject.pronoun}", clause.complement)
    return sentence(french, f"{clause.auxiliary} {subject.english} {clause.nonfinite}", "?")


ASSERTED = (statement, negation)
ASKED = (statement, question, inversion)
ALL_TYPES = (statement, negation, question, inversion)


def with_auxiliary(verb: str, complement: str, auxiliary: str, nonfinite: str, clitic: str = "") -> Clause:
    return Clause(verb, complement, f"{auxiliary} {nonfinite}", auxiliary, nonfinite, clitic)


def simple_present(subject: Subject, verb: Verb, complement: str, english: str, clitic: str = "") -> Clause:
    third = subject.person == 2
    finite = words.english_s(verb.english) if third else verb.english
    support = "does" if third else "do"
    form = verb.present[subject.person]
    return Clause(form, complement, join(finite, english), support, join(verb.english, english), clitic)


def present(subject: Subject, verb: Verb, complement: str, english: str, clitic: str = "") -> Clause:
    """Progressive in English unless the verb is a state."""
    if not verb.progressive:
        return simple_present(subject, verb, complement, english, clitic)
    auxiliary, nonfinite = words.BE[subject.person], join(verb.progressive, english)
    return with_auxiliary(verb.present[subject.person], complement, auxiliary, nonfinite, clitic)


def past(subject: Subject, verb: Verb, complement: str, english: str) -> Clause:
    """Passé composé; the verbs of motion take être and agree with the subject."""
    moves = verb in (words.GO, words.COME)
    auxiliary = (words.ETRE if moves else words.HAVE.present)[subject.person]
    participle = verb.participle + ("e" * subject.feminine + "s" * subject.plural if moves else "")
    french, base = join(participle, complement), join(verb.english, english)
    return Clause(auxiliary, french, join(verb.past, english), "did", base)


def being(subject: Subject, complement: str, english: str, tense: str = "present") -> Clause:
    french, auxiliary = (words.ETRE, words.BE) if tense == "present" else (words.ETAIS, words.WAS)
    return with_auxiliary(french[subject.person], complement, auxiliary[subject.person], english)


def noun_phrase(determiner: Determiner, noun: Noun, plural: bool, adjective: Adjective | None = None) -> Pair:
    article = determiner.french[2 if plural else noun.feminine]
    french, english = noun.french[plural], noun.english[plural]
    if adjective:
        form = adjective.french[noun.feminine][plural]
        if adjective in words.ADJECTIVES_BEFORE:
            if not (plural or noun.feminine) and french[0] in "aeiouhéœ":
                form = adjective.before_vowel
            french = f"{form} {french}"
        else:
            french = f"{french} {form}"
        english = f"{adjective.english} {english}"
    return f"{article} {french}", f"{determiner.english[plural]} {english}"


def any_subject(dice: Dice) -> Subject:
    return dice.pick(words.PRONOUNS if dice.chance(0.6) else words.NAMED if dice.chance(0.4) else words.RELATIVES)


def own_possessive(subject: Subject) -> Determiner:
    """The possessive of the subject's own things; only here does son/sa occur, so its owner's gender is known."""
    own = {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}
    if subject.person == 2:
        return words.HER if subject.feminine else words.HIS
    return words.POSSESSIVES[own[subject.person]]


def definite_object(dice: Dice, subject: Subject, noun: Noun) -> Pair:
    determiner = dice.pick((words.THE, words.THIS, own_possessive(subject)))
    adjective = None
    if noun in words.OBJECTS and dice.chance(0.4):
        adjective = dice.pick(words.ADJECTIVES_BEFORE + words.ADJECTIVES_AFTER)
    return noun_phrase(determiner, noun, dice.chance(0.35), adjective)


def counted_object(dice: Dice, noun: Noun) -> Pair:
    adjective = None
    if noun in words.OBJECTS and dice.chance(0.4):
        adjective = dice.pick(words.ADJECTIVES_BEFORE + words.ADJECTIVES_AFTER)
    if dice.chance(0.6):
        return noun_phrase(words.A, noun, False, adjective)
    return noun_phrase(dice.pick(words.NUMBERS), noun, True, adjective)


def number(value: int) -> Pair:
    """Number words for 2 to 59."""
    if value <= 20:
        return words.NUMBER_WORDS[value]
    tens, french, english = words.TENS[value // 10 - 2]
    if value == tens:
        return french, english
    french_unit, english_unit = words.NUMBER_WORDS[value - tens]
    link = " et " if value == tens + 1 else "-"
    return f"{french}{link}{french_unit}", f"{english}-{english_unit}"


def destination(dice: Dice) -> tuple[str, str, str]:
    """French with its preposition, English without one, and the English preposition of being there."""
    kind = dice.pick(("place", "place", "city", "country"))
    if kind == "country":
        french, _, english = dice.pick(words.COUNTRIES)
        return french, english, "in"
    if kind == "city":
        city, english = dice.pick(words.CITIES)
        return f"à {city}", english, "in"
    place = dice.pick(words.PLACES)
    return f"à {noun_phrase(words.THE, place, False)[0]}", place.english[0], "at"


def origin(dice: Dice) -> Pair:
    """French with its preposition, English without one."""
    kind = dice.pick(("place", "place", "city", "country"))
    if kind == "country":
        _, french, english = dice.pick(words.COUNTRIES)
        return french, english
    if kind == "city":
        city, english = dice.pick(words.CITIES)
        return f"de {city}", english
    place = dice.pick(words.PLACES)
    return f"de {noun_phrase(words.THE, place, False)[0]}", place.english[0]
