"""Lexicon of the phrasebook: words of both languages with the forms that the sentence patterns need.

Forms are indexed by number, `forms[plural]`, or by gender and number, `forms[feminine][plural]`.
Every French word in h- is a mute h, so that elision looks at the first letter only.
"""

import functools
from dataclasses import dataclass

FRENCH_PERSONS = ("je", "tu", "il", "nous", "vous", "ils")
BE = ("am", "are", "is", "are", "are", "are")
WAS = ("was", "were", "was", "were", "were", "were")


def french_plural(word: str) -> str:
    if word.endswith(("s", "x", "z")):
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith("eau") else "s")


@functools.cache
def english_s(word: str) -> str:
    """The plural of a noun or the third person of a verb; only the first word of `look for` is inflected."""
    first, space, rest = word.partition(" ")
    irregular = {"knife": "knives", "scarf": "scarves", "have": "has"}
    if first in irregular:
        first = irregular[first]
    elif first.endswith("y") and first[-2] not in "aeiou":
        first = first[:-1] + "ies"
    else:
        first += "es" if first.endswith(("s", "x", "o", "ch", "sh")) else "s"
    return first + space + rest


@dataclass(frozen=True, eq=False)
class Noun:
    french: tuple[str, str]
    english: tuple[str, str]
    feminine: bool


@dataclass(frozen=True, eq=False)
class Adjective:
    french: tuple[tuple[str, str], tuple[str, str]]
    english: str
    before_vowel: str
    comparative: str = ""


@dataclass(frozen=True, eq=False)
class Verb:
    """`present` has six persons; a verb without `progressive` is a state (`knows`), never `is knowing`."""

    infinitive: str
    present: tuple[str, ...]
    participle: str
    english: str
    past: str
    progressive: str


@dataclass(frozen=True, eq=False)
class Determiner:
    """`french` is masculine, feminine, plural; an empty form does not exist."""

    french: tuple[str, str, str]
    english: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Subject:
    """`person` (0 to 5) inflects the verb, `plural` the predicate: `vous` takes a singular one for one person."""

    french: str
    english: str
    person: int
    feminine: bool
    plural: bool
    is_pronoun: bool = False

    @property
    def pronoun(self) -> str:
        return (
            "elles"[: 5 if self.plural else 4]
            if self.feminine and self.person in (2, 5)
            else FRENCH_PERSONS[self.person]
        )


def nouns(table: str) -> tuple[Noun, ...]:
    rows = [row.strip().split(" ", 2) for row in table.split(",")]
    return tuple(Noun((fr, french_plural(fr)), (en, english_s(en)), gender == "f") for fr, gender, en in rows)


def adjectives(table: str) -> tuple[Adjective, ...]:
    """Rows `masculine feminine English [before-vowel form or =] [comparative]`; _ joins words."""
    found = []
    for row in table.split(","):
        masculine, feminine, english, *more = row.split()
        forms = ((masculine, french_plural(masculine)), (feminine, french_plural(feminine)))
        before_vowel = more[0] if more and more[0] != "=" else masculine
        comparative = more[1].replace("_", " ") if len(more) > 1 else ""
        found.append(Adjective(forms, english, before_vowel, comparative))
    return tuple(found)


def paired(french: str, english: str) -> tuple[tuple[str, str], ...]:
    return tuple(zip(french.split(), english.split(), strict=True))


def verb(french: str, english: str) -> Verb:
    """`french`: infinitive, or infinitive, six persons, participle; `english`: base/past/progressive or base/past."""
    infinitive, *forms = french.split()
    if not forms:
        stem = infinitive.removesuffix("er")
        forms = [stem + ending for ending in ("e", "es", "e", "ons", "ez", "ent", "é")]
    base, past, *progressive = english.split("/")
    return Verb(infinitive, tuple(forms[:6]), forms[6], base, past, "".join(progressive))


PROFESSIONS = tuple(
    (((m, french_plural(m)), (f, french_plural(f))), ((em, english_s(em)), (ef, english_s(ef))))
    for m, f, em, ef in (
        ("étudiant", "étudiante", "student", "student"),
        ("professeur", "professeure", "teacher", "teacher"),
        ("médecin", "médecin", "doctor", "doctor"),
        ("avocat", "avocate", "lawyer", "lawyer"),
        ("ingénieur", "ingénieure", "engineer", "engineer"),
        ("boulanger", "boulangère", "baker", "baker"),
        ("infirmier", "infirmière", "nurse", "nurse"),
        ("acteur", "actrice", "actor", "actress"),
        ("musicien", "musicienne", "musician", "musician"),
        ("journaliste", "journaliste", "journalist", "journalist"),
        ("architecte", "architecte", "architect", "architect"),
        ("dentiste", "dentiste", "dentist", "dentist"),
        ("chanteur", "chanteuse", "singer", "singer"),
        ("coiffeur", "coiffeuse", "hairdresser", "hairdresser"),
        ("pharmacien", "pharmacienne", "pharmacist", "pharmacist"),
        ("serveur", "serveuse", "waiter", "waitress"),
    )
)

KIN = nouns(
    "frère m brother, sœur f sister, ami m friend, amie f friend, père m father, mère f mother, oncle m uncle, "
    "tante f aunt, cousin m cousin, cousine f cousin"
)
PARENTS = KIN[4:6]
FOOD = nouns("pomme f apple, gâteau m cake, orange f orange, poire f pear, pizza f pizza, sandwich m sandwich")
TEXTS = nouns("livre m book, journal m newspaper, lettre f letter, roman m novel, histoire f story, message m message")
CLOTHES = nouns("chemise f shirt, robe f dress, manteau m coat, chapeau m hat, écharpe f scarf")
SMALL_OBJECTS = nouns(
    "clé f key, sac m bag, montre f watch, téléphone m phone, ordinateur m computer, lampe f lamp, "
    "parapluie m umbrella, stylo m pen, assiette f plate, couteau m knife, bouteille f bottle, cadeau m gift"
)
LARGE_OBJECTS = nouns("voiture f car, vélo m bicycle, table f table, chaise f chair, valise f suitcase, bateau m boat")
OBJECTS = CLOTHES + SMALL_OBJECTS + LARGE_OBJECTS
ANIMALS = nouns("chien m dog, chat m cat, oiseau m bird, cheval m horse")
FURNITURE = nouns("table f table, chaise f chair, voiture f car, valise f suitcase, lit m bed, armoire f wardrobe")
PLACES = nouns(
    "marché m the market, gare f the station, plage f the beach, musée m the museum, "
    "restaurant m the restaurant, hôtel m the hotel, "
    "hôpital m the hospital, poste f the post office, cinéma m the cinema, parc m the park, "
    "bibliothèque f the library, banque f the bank, boulangerie f the bakery, université f the university, "
    "aéroport m the airport, piscine f the swimming pool"
)
# Generic or partitive in French ("j'aime le thé", "je bois du thé"), bare in English.
DRINKS = nouns("café m coffee, thé m tea, lait m milk, eau f water, bière f beer, vin m wine")
PLEASURES = nouns("musique f music, sport m sports, chocolat m chocolate, fromage m cheese, danse f dancing") + DRINKS

PERSON_ADJECTIVES = adjectives(
    "grand grande tall = taller, petit petite short = shorter, jeune jeune young = younger, riche riche rich = richer, "
    "gentil gentille kind = kinder, triste triste sad = sadder, content contente happy = happier, "
    "fatigué fatiguée tired = more_tired, intelligent intelligente intelligent = more_intelligent, "
    "sérieux sérieuse serious = more_serious, malade malade sick, occupé occupée busy = busier"
)
ADJECTIVES_BEFORE = adjectives(
    "petit petite small, grand grande big, nouveau nouvelle new nouvel, vieux vieille old vieil, "
    "beau belle beautiful bel, joli jolie pretty"
)
ADJECTIVES_AFTER = adjectives(
    "cher chère expensive, sale sale dirty, lourd lourde heavy, rouge rouge red, vert verte green, bleu bleue blue, "
    "noir noire black, blanc blanche white"
)
STATES = paired("faim soif froid chaud peur raison", "hungry thirsty cold hot afraid right")

EAT = verb("manger mange manges mange mangeons mangez mangent mangé", "eat/ate/eating")
READ = verb("lire lis lis lit lisons lisez lisent lu", "read/read/reading")
WRITE = verb("écrire écris écris écrit écrivons écrivez écrivent écrit", "write/wrote/writing")
WEAR = verb("porter", "wear/wore/wearing")
BUY = verb("acheter achète achètes achète achetons achetez achètent acheté", "buy/bought/buying")
SELL = verb("vendre vends vends vend vendons vendez vendent vendu", "sell/sold/selling")
LOOK_FOR = verb("chercher", "look for/looked for/looking for")
WASH = verb("laver", "wash/washed/washing")
SEE = verb("voir vois vois voit voyons voyez voient vu", "see/saw")
WANT = verb("vouloir veux veux veut voulons voulez veulent voulu", "want/wanted")
KNOW = verb("connaître connais connais connaît connaissons connaissez connaissent connu", "know/knew")
DRINK = verb("boire bois bois boit buvons buvez boivent bu", "drink/drank")
GIVE = verb("donner", "give/gave/giving")
SHOW = verb("montrer", "show/showed/showing")
SPEAK = verb("parler", "speak/spoke")
LIKE = verb("aimer", "like/liked")
THINK = verb("penser", "think/thought")
KNOW_THAT = verb("savoir sais sais sait savons savez savent su", "know/knew")
GO = verb("aller vais vas va allons allez vont allé", "go/went/going")
COME = verb("venir viens viens vient venons venez viennent venu", "come/came/coming")
LIVE = verb("habiter", "live/lived")
CAN = verb("pouvoir peux peux peut pouvons pouvez peuvent pu", "can/could")
MUST = verb("devoir dois dois doit devons devez doivent dû", "must/must")
HAVE = verb("avoir ai as a avons avez ont eu", "have/had")
ETRE = ("suis", "es", "est", "sommes", "êtes", "sont")
ETAIS = ("étais", "étais", "était", "étions", "étiez", "étaient")

TRANSITIVE = (
    *((EAT, FOOD), (READ, TEXTS), (WRITE, TEXTS[2:]), (WEAR, CLOTHES), (WASH, CLOTHES)),
    *((BUY, OBJECTS), (SELL, OBJECTS), (LOOK_FOR, OBJECTS), (SEE, OBJECTS), (WANT, OBJECTS)),
)
# Verbs whose object pronoun is a person: they begin with a consonant, so that le and la keep the gender.
PERSON_VERBS = (
    SEE,
    verb("comprendre comprends comprends comprend comprenons comprenez comprennent compris", "understand/understood"),
    verb("remercier", "thank/thanked/thanking"),
    verb("saluer", "greet/greeted/greeting"),
    KNOW,
    verb("respecter", "respect/respected"),
)
OBJECT_PRONOUNS = (
    ("me", "me", (0, 3)),
    ("te", "you", (1, 4)),
    ("le", "him", ()),
    ("la", "her", ()),
    ("nous", "us", (0, 3)),
    ("vous", "you", (1, 4)),
    ("les", "them", ()),
)  # with the persons that would make it reflexive

POSSESSIVES = tuple(
    Determiner((m, f, p), (english, english))
    for m, f, p, english in (
        ("mon", "ma", "mes", "my"),
        ("ton", "ta", "tes", "your"),
        ("notre", "notre", "nos", "our"),
        ("votre", "votre", "vos", "your"),
        ("leur", "leur", "leurs", "their"),
    )
)
HIS, HER = (Determiner(("son", "sa", "ses"), (english, english)) for english in ("his", "her"))
THE = Determiner(("le", "la", "les"), ("the", "the"))
THIS = Determiner(("ce", "cette", "ces"), ("this", "these"))
A = Determiner(("un", "une", ""), ("a", ""))
# Index = value from 0 to 20.
NUMBER_WORDS = paired(
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf vingt",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
)
NUMBERS = tuple(Determiner(("", "", french), ("", english)) for french, english in NUMBER_WORDS[2:11])
TENS = ((20, "vingt", "twenty"), (30, "trente", "thirty"), (40, "quarante", "forty"), (50, "cinquante", "fifty"))

NAMES = (("Marie", True), ("Paul", False), ("Alice", True), ("Marc", False), ("Julie", True), ("Antoine", False))
CITIES = (("Paris", "Paris"), ("Lyon", "Lyon"), ("Londres", "London"), ("Rome", "Rome"), ("Athènes", "Athens"))
# (to or in, from, English)
COUNTRIES = (
    ("en France", "de France", "France"),
    ("en Italie", "de Italie", "Italy"),
    ("en Espagne", "de Espagne", "Spain"),
    ("au Canada", "du Canada", "Canada"),
    ("au Japon", "du Japon", "Japan"),
    ("aux États-Unis", "des États-Unis", "the United States"),
)
LANGUAGES = (("français", "French"), ("anglais", "English"), ("italien", "Italian"), ("japonais", "Japanese"))
DAYS = paired(
    "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
)
ADVERBS = paired("souvent toujours parfois rarement jamais", "often always sometimes rarely never")
HOUR_PARTS = (
    ("", "{} o'clock"),
    ("et demie", "half past {}"),
    ("et quart", "quarter past {}"),
    ("dix", "ten past {}"),
    ("vingt", "twenty past {}"),
)
SPATIAL = (
    ("sur", "on"),
    ("sous", "under"),
    ("devant", "in front of"),
    ("derrière", "behind"),
    ("à côté de", "next to"),
)
DISJUNCTIVE = (
    ("moi", "me"),
    ("toi", "you"),
    ("lui", "him"),
    ("elle", "her"),
    ("nous", "us"),
    ("vous", "you"),
    ("eux", "them"),
)

PRONOUNS = tuple(
    Subject(french, english, person, feminine, plural, is_pronoun=True)
    for french, english, person, feminine, plural in (
        ("je", "I", 0, False, False),
        ("je", "I", 0, True, False),
        ("tu", "you", 1, False, False),
        ("tu", "you", 1, True, False),
        ("il", "he", 2, False, False),
        ("elle", "she", 2, True, False),
        ("nous", "we", 3, False, True),
        ("nous", "we", 3, True, True),
        ("vous", "you", 4, False, False),
        ("vous", "you", 4, True, False),
        ("vous", "you", 4, False, True),
        ("vous", "you", 4, True, True),
        ("ils", "they", 5, False, True),
        ("elles", "they", 5, True, True),
    )
)
NAMED = tuple(Subject(name, name, 2, feminine, False) for name, feminine in NAMES)
RELATIVES = tuple(
    Subject(
        f"{determiner.french[2 if plural else noun.feminine]} {noun.french[plural]}",
        f"{determiner.english[plural]} {noun.english[plural]}",
        5 if plural else 2,
        noun.feminine,
        plural,
    )
    for determiner in POSSESSIVES
    for noun in KIN
    for plural in (False, True)
    if not (plural and noun in PARENTS)
)
