"""The phrasebook is correct, a function of its source, the same in every process, and its held-out part is held out."""

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from trainer.data.corpora.phrasebook import corpus as phrasebook
from trainer.data.corpora.phrasebook.grammar import number, sentence
from trainer.data.corpora.phrasebook.words import english_s, french_plural

CHECKSUM = "import hashlib; from trainer.data.corpora.phrasebook.corpus import pairs; print(hashlib.sha256(repr("
CHECKSUM += "[list(pairs(split)) for split in ('train', 'valid', 'test')]).encode()).hexdigest())"


def words_of(sentences: list[str]) -> set[str]:
    return {word for sentence in sentences for word in sentence.replace("'", " ").rstrip(" .?").split()}


@pytest.mark.parametrize(
    ("split", "low", "high"), [("train", 35_000, 60_000), ("valid", 400, 700), ("test", 1_000, 2_000)]
)
def test_counts(split: phrasebook.Split, low: int, high: int) -> None:
    assert low <= len(list(phrasebook.pairs(split))) <= high


def test_the_content_has_its_version() -> None:
    content = repr([list(phrasebook.pairs(split)) for split in ("train", "valid", "test")])
    checksum = hashlib.sha256(content.encode()).hexdigest()
    # If this fails, the sentences changed: give both a new value, so that prepared data is prepared again.
    assert checksum == "0923b8c3ab6bb14f3014803e793f0bc18c0f6c4bf85e957abdba3eef07280921"
    assert phrasebook.CONTENT_VERSION == "8201ef8c6d633d1669d4639f4c64aee4d2758fb8786dc290b2ca5f9e70511431"


def test_the_same_in_every_process() -> None:
    def checksum(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, "-c", CHECKSUM], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert checksum("1") == checksum("2")


def test_splits_share_neither_source_nor_target() -> None:
    splits = [list(phrasebook.pairs(split)) for split in ("train", "valid", "test")]
    for side in (0, 1):
        seen = Counter(text for pairs in splits for text in {pair[side] for pair in pairs})
        assert max(seen.values()) == 1


def test_a_source_has_one_target_and_occurs_once() -> None:
    sources = Counter(source for split in ("train", "valid", "test") for source, _ in phrasebook.pairs(split))
    assert max(sources.values()) == 1


def test_the_demonstration_is_held_out() -> None:
    assert ("Je suis étudiant.", "I am a student.") in phrasebook.pairs("test")
    assert "I am a student." not in {target for _, target in phrasebook.pairs("train")}
    # What it takes to generalise to it.
    trained = dict(phrasebook.pairs("train"))
    assert sum(source.startswith("Je suis ") and " a" in target for source, target in trained.items()) >= 20
    assert sum("étudiant" in source for source in trained) >= 100


def test_every_held_out_word_is_trained() -> None:
    trained = list(phrasebook.pairs("train"))
    for split in ("valid", "test"):
        held_out = list(phrasebook.pairs(split))
        for side in (0, 1):
            assert words_of([pair[side] for pair in held_out]) <= words_of([pair[side] for pair in trained])


def test_training_order_is_mixed() -> None:
    """Neighbours come from different patterns: any thousand sentences hold every kind in about its share."""
    trained = [target for _, target in phrasebook.pairs("train")]
    shares = [sum(target.endswith("?") for target in trained[i : i + 1000]) for i in range(0, 30_000, 1000)]
    assert max(shares) - min(shares) < 150


@pytest.mark.parametrize(
    ("deep", "surface"),
    [
        ("je ai", "J'ai."),
        ("je ne aime pas le hôtel", "Je n'aime pas l'hôtel."),
        ("est-ce que il habite à le Japon", "Est-ce qu'il habite au Japon."),
        ("il vient de le parc", "Il vient du parc."),
        ("il vient de la école", "Il vient de l'école."),
        ("il ne y a pas de orange", "Il n'y a pas d'orange."),
        ("je parle à les amis de les enfants", "Je parle aux amis des enfants."),
        ("ma amie et sa vieille amie", "Mon amie et sa vieille amie."),
        ("ce arbre et ce parc", "Cet arbre et ce parc."),
        ("plus grand que Alice", "Plus grand qu'Alice."),
    ],
)
def test_elision_and_contraction(deep: str, surface: str) -> None:
    assert sentence(deep, "x")[0] == surface


def test_plurals_and_numbers() -> None:
    assert [french_plural(word) for word in ("livre", "cheval", "gâteau", "français", "bleu")] == [
        *("livres", "chevaux", "gâteaux", "français", "bleus")
    ]
    assert [english_s(word) for word in ("story", "watch", "knife", "key", "look for", "have", "go")] == [
        *("stories", "watches", "knives", "keys", "looks for", "has", "goes")
    ]
    assert [number(value) for value in (16, 20, 21, 32, 50)] == [
        ("seize", "sixteen"),
        ("vingt", "twenty"),
        ("vingt et un", "twenty-one"),
        ("trente-deux", "thirty-two"),
        ("cinquante", "fifty"),
    ]


PHENOMENA = {
    "no article before a profession, an -e for a woman": """
        Julie est avocate. | Julie is a lawyer.
        Nous ne sommes pas serveuses. | We are not waitresses.
        Julie est architecte. | Julie is an architect.
        Étais-tu pharmacienne ? | Were you a pharmacist?
        Vous n'étiez pas architectes. | You were not architects.
        Est-ce que vous êtes pharmacienne ? | Are you a pharmacist?""",
    "a state that French has and English is": """
        Mes tantes n'ont pas soif. | My aunts are not thirsty.
        Est-ce qu'ils ont chaud ? | Are they hot?
        A-t-il quarante et un ans ? | Is he forty-one years old?
        Marc a dix ans. | Marc is ten years old.""",
    "an object pronoun before the verb": """
        Je ne les comprends pas. | I do not understand them.
        Nous ne le voyons pas. | We do not see him.
        Elles ne le remercient pas. | They are not thanking him.
        Veux-tu nous remercier ? | Do you want to thank us?
        Votre frère te montre-t-il un stylo noir ? | Is your brother showing you a black pen?
        Me montres-tu un parapluie ? | Are you showing me an umbrella?""",
    "an adjective that agrees, before or after its noun": """
        J'ai vu cet ordinateur noir. | I saw this black computer.
        As-tu un bel ordinateur ? | Do you have a beautiful computer?
        Vendez-vous le vieil ordinateur ? | Are you selling the old computer?
        Tu vas porter ton écharpe blanche. | You are going to wear your white scarf.
        Julie porte souvent la nouvelle écharpe. | Julie often wears the new scarf.
        Mes assiettes sont trop chères. | My plates are too expensive.""",
    "possession": """
        Marie ne porte pas son écharpe verte. | Marie is not wearing her green scarf.
        Mon cousin a porté son écharpe. | My cousin wore his scarf.
        La valise de mon amie est verte. | My friend's suitcase is green.
        Vous voyez la chemise de leur frère. | You see their brother's shirt.""",
    "negation with ne and de": """
        Ils n'ont pas d'écharpe. | They do not have a scarf.
        Marie ne boit pas de thé. | Marie does not drink tea.
        Il n'y a pas d'assiette à côté de cette table. | There is no plate next to this table.
        Votre tante ne mange jamais son orange. | Your aunt never eats her orange.""",
    "places, contracted": """
        Tes oncles viennent d'Espagne. | Your uncles are coming from Spain.
        Est-ce que vous étiez aux États-Unis ? | Were you in the United States?
        Nos tantes sont-elles allées au marché ? | Did our aunts go to the market?
        Le dimanche, leur sœur va à la gare. | On Sundays, their sister goes to the station.
        Ce vendredi, je vais au musée. | This Friday, I am going to the museum.""",
    "numbers, prices and times": """
        Le stylo coûte cinquante et un euros. | The pen costs fifty-one euros.
        Combien d'oiseaux voient-elles ? | How many birds do they see?
        Il y a trois couteaux sous la table. | There are three knives under the table.
        Le train pour Londres part à huit heures et demie. | The train to London leaves at half past eight.
        Comment s'appelle ton père ? | What is your father's name?""",
}


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_phenomenon(phenomenon: str) -> None:
    expected = dict(line.strip().split(" | ") for line in PHENOMENA[phenomenon].strip().splitlines())
    assert {source: phrasebook.corpus().get(source) for source in expected} == expected
