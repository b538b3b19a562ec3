"""Sentence patterns of the phrasebook: each draws its words and makes one French sentence with its English one."""

from trainer.data.corpora.phrasebook import words
from trainer.data.corpora.phrasebook.grammar import (
    ALL_TYPES,
    ASKED,
    ASSERTED,
    Clause,
    Dice,
    Pair,
    any_subject,
    being,
    counted_object,
    definite_object,
    destination,
    inversion,
    join,
    negation,
    noun_phrase,
    number,
    origin,
    past,
    present,
    sentence,
    simple_present,
    statement,
    with_auxiliary,
)
from trainer.data.corpora.phrasebook.words import Subject, Verb


def profession(dice: Dice) -> Pair:
    subject = any_subject(dice)
    french, english = dice.pick(words.PROFESSIONS)
    name = english[subject.feminine][subject.plural]
    complement = french[subject.feminine][subject.plural]
    tense = "present" if dice.chance(0.75) else "past"
    clause = being(subject, complement, name if subject.plural else f"a {name}", tense)
    return dice.pick(ALL_TYPES)(subject, clause)


def mood(dice: Dice) -> Pair:
    subject, adjective = any_subject(dice), dice.pick(words.PERSON_ADJECTIVES)
    french, english = adjective.french[subject.feminine][subject.plural], adjective.english
    if dice.chance(0.3):
        french, english = f"très {french}", f"very {english}"
    tense = "present" if dice.chance(0.75) else "past"
    return dice.pick(ALL_TYPES)(subject, being(subject, french, english, tense))


def state(dice: Dice) -> Pair:
    """`J'ai faim` is `I am hungry`."""
    subject, (french, english) = any_subject(dice), dice.pick(words.STATES)
    form = words.HAVE.present[subject.person]
    return dice.pick(ALL_TYPES)(subject, with_auxiliary(form, french, words.BE[subject.person], english))


def age(dice: Dice) -> Pair:
    """`J'ai vingt et un ans` is `I am twenty-one years old`."""
    subject, value = any_subject(dice), dice.pick(range(2, 60))
    french, english = number(value)
    form = words.HAVE.present[subject.person]
    clause = with_auxiliary(form, f"{french} ans", words.BE[subject.person], f"{english} years old")
    return dice.pick(ASKED)(subject, clause)


def action(dice: Dice) -> Pair:
    subject, (verb, nouns) = any_subject(dice), dice.pick(words.TRANSITIVE)
    # Past wanting would be in the imparfait.
    tense = past if dice.chance(0.3) and verb is not words.WANT else present
    if dice.chance(0.6):
        return dice.pick(ALL_TYPES)(subject, tense(subject, verb, *definite_object(dice, subject, dice.pick(nouns))))
    # A negated "un" would become "de".
    return dice.pick(ASKED)(subject, tense(subject, verb, *counted_object(dice, dice.pick(nouns))))


def habit(dice: Dice) -> Pair:
    """The adverb follows the French verb and precedes the English one, which is never progressive here."""
    subject, (verb, nouns) = any_subject(dice), dice.pick(words.TRANSITIVE[:8])
    french, english = definite_object(dice, subject, dice.pick(nouns))
    clause = simple_present(subject, verb, french, english)
    adverb, often = dice.pick(words.ADVERBS)
    ne = "ne" if adverb == "jamais" else ""
    return sentence(join(subject.french, ne, clause.verb, adverb, french), f"{subject.english} {often} {clause.finite}")


def weekday(dice: Dice) -> Pair:
    subject, (day, english_day) = any_subject(dice), dice.pick(words.DAYS)
    french, english, _ = destination(dice)
    clause = simple_present(subject, words.GO, french, f"to {english}")
    front, english_front = (f"le {day}", f"on {english_day}s")
    if dice.chance(0.5):
        clause = present(subject, words.GO, french, f"to {english}")
        front, english_front = (f"ce {day}", f"this {english_day}")
    return sentence(
        f"{front}, {subject.french} {clause.verb} {french}", f"{english_front}, {subject.english} {clause.finite}"
    )


def movement(dice: Dice) -> Pair:
    subject = any_subject(dice)
    if dice.chance(0.6):
        french, english, _ = destination(dice)
        tense = past if dice.chance(0.4) else present
        return dice.pick(ALL_TYPES)(subject, tense(subject, words.GO, french, f"to {english}"))
    french, english = origin(dice)
    return dice.pick(ALL_TYPES)(subject, present(subject, words.COME, french, f"from {english}"))


def residence(dice: Dice) -> Pair:
    """Where somebody is or lives."""
    subject = any_subject(dice)
    french, english, preposition = destination(dice)
    there = f"{preposition} {english}"
    if preposition == "at" or dice.chance(0.5):
        return dice.pick(ALL_TYPES)(subject, being(subject, french, there, "present" if dice.chance(0.6) else "past"))
    return dice.pick(ALL_TYPES)(subject, present(subject, words.LIVE, french, there))


def object_pronoun(dice: Dice) -> Pair:
    """`Je ne le vois pas` is `I do not see him`: the pronoun precedes the French verb."""
    subject, (clitic, english) = reachable_pronoun(dice)
    clause = present(subject, dice.pick(words.PERSON_VERBS), "", english, clitic)
    return dice.pick(ALL_TYPES)(subject, clause)


def reachable_pronoun(dice: Dice) -> tuple[Subject, Pair]:
    """A subject and an object pronoun that does not mean the subject itself."""
    subject = any_subject(dice)
    options = [(clitic, en) for clitic, en, same in words.OBJECT_PRONOUNS if subject.person not in same]
    return subject, dice.pick(options)


def giving(dice: Dice) -> Pair:
    """`Il me donne un livre` is `He is giving me a book`."""
    subject, (clitic, english) = reachable_pronoun(dice)
    if clitic in ("le", "la", "les"):
        clitic, english = "leur", "them"
    thing, english_thing = counted_object(dice, dice.pick(words.OBJECTS + words.TEXTS))
    verb = dice.pick((words.GIVE, words.SHOW))
    return dice.pick(ASKED)(subject, present(subject, verb, thing, f"{english} {english_thing}", clitic))


def infinitive(dice: Dice) -> Pair:
    """An auxiliary and an infinitive, with an object or with a pronoun before it."""
    subject = any_subject(dice)
    if dice.chance(0.35):
        subject, (clitic, pronoun) = reachable_pronoun(dice)
        verb = dice.pick(words.PERSON_VERBS[:3])
        french, english = f"{clitic} {verb.infinitive}", f"{verb.english} {pronoun}"
    else:
        verb, nouns = dice.pick(words.TRANSITIVE[:-2])
        thing, english_thing = definite_object(dice, subject, dice.pick(nouns))
        french, english = f"{verb.infinitive} {thing}", f"{verb.english} {english_thing}"
    return dice.pick(ALL_TYPES)(subject, governed(dice.pick(GOVERNING), subject, french, english))


GOVERNING = (words.WANT, words.CAN, words.MUST, words.GO)


def governed(verb: Verb, subject: Subject, french: str, english: str) -> Clause:
    form = verb.present[subject.person]
    if verb is words.WANT:
        return simple_present(subject, verb, french, f"to {english}")
    if verb is words.GO:
        return with_auxiliary(form, french, words.BE[subject.person], f"going to {english}")
    return with_auxiliary(form, french, verb.english, english)


def taste(dice: Dice) -> Pair:
    subject, noun = any_subject(dice), dice.pick(words.PLEASURES)
    french, _ = noun_phrase(words.THE, noun, False)
    return dice.pick(ALL_TYPES)(subject, present(subject, words.LIKE, french, noun.english[0]))


def drinking(dice: Dice) -> Pair:
    """Partitive `du thé`, `de l'eau`; negated `de thé`, `d'eau`."""
    subject, noun = any_subject(dice), dice.pick(words.DRINKS)
    sentence_type = dice.pick(ALL_TYPES)
    article = "" if sentence_type is negation else "la " if noun.feminine else "le "
    clause = present(subject, words.DRINK, f"de {article}{noun.french[0]}", noun.english[0])
    return sentence_type(subject, clause)


def language(dice: Dice) -> Pair:
    subject, (french, english) = any_subject(dice), dice.pick(words.LANGUAGES)
    return dice.pick(ALL_TYPES)(subject, present(subject, words.SPEAK, french, english))


def owning(dice: Dice) -> Pair:
    """`J'ai deux frères`; negated, `un` becomes `de`: `Je n'ai pas de voiture`."""
    subject, noun = any_subject(dice), dice.pick(words.OBJECTS + words.ANIMALS + words.KIN[:2])
    if dice.chance(0.3):
        return negation(subject, present(subject, words.HAVE, f"de {noun.french[0]}", f"a {noun.english[0]}"))
    return dice.pick(ASKED)(subject, present(subject, words.HAVE, *counted_object(dice, noun)))


def quality(dice: Dice) -> Pair:
    """A thing and its adjective agree: `Ma petite voiture est verte`."""
    noun, plural = dice.pick(words.OBJECTS), dice.chance(0.4)
    before = dice.pick(words.ADJECTIVES_BEFORE) if dice.chance(0.25) else None
    determiner = dice.pick((words.THE, words.THIS, *words.POSSESSIVES))
    thing = Subject(*noun_phrase(determiner, noun, plural, before), 5 if plural else 2, noun.feminine, plural)
    return dice.pick(ALL_TYPES)(thing, described(dice, thing))


def described(dice: Dice, thing: Subject) -> Clause:
    adjective = dice.pick(words.ADJECTIVES_AFTER)
    french, english = adjective.french[thing.feminine][thing.plural], adjective.english
    # Nothing is too green.
    if adjective in words.ADJECTIVES_AFTER[:3] and dice.chance(0.5):
        french, english = f"trop {french}", f"too {english}"
    return being(thing, french, english)


def possessor(dice: Dice) -> Pair:
    """`La voiture de mon frère est rouge` is `My brother's car is red`."""
    owner = dice.pick(words.NAMED + tuple(subject for subject in words.RELATIVES if not subject.plural))
    noun, plural = dice.pick(words.OBJECTS), dice.chance(0.4)
    french, _ = noun_phrase(words.THE, noun, plural)
    english = f"{owner.english}'s {noun.english[plural]}"
    thing = Subject(f"{french} de {owner.french}", english, 5 if plural else 2, noun.feminine, plural)
    if dice.chance(0.4):
        subject = dice.pick(words.PRONOUNS)
        return dice.pick(ALL_TYPES)(subject, present(subject, words.SEE, thing.french, thing.english))
    return dice.pick(ASSERTED)(thing, described(dice, thing))


def comparison(dice: Dice) -> Pair:
    """`Elle est plus grande que moi` is `She is taller than me`."""
    subject = any_subject(dice)
    adjective = dice.pick([each for each in words.PERSON_ADJECTIVES if each.comparative])
    form = adjective.french[subject.feminine][subject.plural]
    others = words.DISJUNCTIVE + tuple((each.french, each.english) for each in words.NAMED if each != subject)
    other, english_other = dice.pick([other for other in others if other[0] not in own_pronouns(subject)])
    if dice.chance(0.6):
        clause = being(subject, f"plus {form} que {other}", f"{adjective.comparative} than {english_other}")
    else:
        clause = being(subject, f"aussi {form} que {other}", f"as {adjective.english} as {english_other}")
    return dice.pick(ALL_TYPES)(subject, clause)


def own_pronouns(subject: Subject) -> tuple[str, ...]:
    """The pronouns after que that would compare the subject with itself."""
    third = ("elle" if subject.feminine else "lui",)
    return (("moi", "nous"), ("toi", "vous"), third, ("moi", "nous"), ("toi", "vous"), ("eux",))[subject.person]


def opinion(dice: Dice) -> Pair:
    """`Je pense qu'elle est malade` is `I think that she is sick`."""
    thinker, subject = any_subject(dice), any_subject(dice)
    french, english = dice.pick(words.PROFESSIONS)
    if dice.chance(0.5):
        name = english[subject.feminine][subject.plural]
        clause = being(subject, french[subject.feminine][subject.plural], name if subject.plural else f"a {name}")
    else:
        adjective = dice.pick(words.PERSON_ADJECTIVES)
        clause = being(subject, adjective.french[subject.feminine][subject.plural], adjective.english)
    that = f"that {subject.english} {clause.finite}"
    verb = dice.pick((words.THINK, words.KNOW_THAT))
    return statement(thinker, present(thinker, verb, f"que {subject.french} {clause.verb} {clause.complement}", that))


def existence(dice: Dice) -> Pair:
    """`Il y a deux chats sous la table`; negated `Il n'y a pas de chat`."""
    noun, place = dice.pick(words.SMALL_OBJECTS + words.ANIMALS[:3]), dice.pick(words.FURNITURE)
    preposition, english_preposition = dice.pick(words.SPATIAL)
    where, english_where = noun_phrase(dice.pick((words.THE, words.THIS)), place, False)
    where, english_where = f"{preposition} {where}", f"{english_preposition} {english_where}"
    if dice.chance(0.25):
        return sentence(f"il ne y a pas de {noun.french[0]} {where}", f"there is no {noun.english[0]} {english_where}")
    plural = dice.chance(0.6)
    thing, english = noun_phrase(dice.pick(words.NUMBERS) if plural else words.A, noun, plural)
    be = "are" if plural else "is"
    if dice.chance(0.3):
        return sentence(f"est-ce que il y a {thing} {where}", f"{be} there {english} {english_where}", "?")
    return sentence(f"il y a {thing} {where}", f"there {be} {english} {english_where}")


def whereabouts(dice: Dice) -> Pair:
    if dice.chance(0.2):
        place = dice.pick(words.PLACES)
        return sentence(f"où est {noun_phrase(words.THE, place, False)[0]}", f"where is {place.english[0]}", "?")
    noun = dice.pick(words.OBJECTS + words.TEXTS + words.KIN)
    plural = noun not in words.PARENTS and dice.chance(0.4)
    thing, english = noun_phrase(dice.pick(words.POSSESSIVES), noun, plural)
    return sentence(f"où {'sont' if plural else 'est'} {thing}", f"where {'are' if plural else 'is'} {english}", "?")


def quantity(dice: Dice) -> Pair:
    """`Combien de livres avez-vous ?` is `How many books do you have?`"""
    subject = dice.pick([each for each in words.PRONOUNS if each.person])
    noun = dice.pick(words.OBJECTS + words.TEXTS + words.ANIMALS + words.KIN[:2])
    verb = dice.pick((words.HAVE, words.SEE, words.WANT))
    verb_and_subject = inversion(subject, Clause(verb.present[subject.person], "", "", "", ""))[0]
    asked = verb_and_subject[0].lower() + verb_and_subject[1:-2]
    auxiliary = "does" if subject.person == 2 else "do"
    return sentence(
        f"combien de {noun.french[1]} {asked}",
        f"how many {noun.english[1]} {auxiliary} {subject.english} {verb.english}",
        "?",
    )


def name_or_age(dice: Dice) -> Pair:
    person = dice.pick([each for each in words.RELATIVES if not each.plural])
    if dice.chance(0.5):
        return sentence(f"quel âge a {person.french}", f"how old is {person.english}", "?")
    return sentence(f"comment s'appelle {person.french}", f"what is {person.english}'s name", "?")


def price(dice: Dice) -> Pair:
    noun, plural = dice.pick(words.OBJECTS), dice.chance(0.4)
    thing, english = noun_phrase(dice.pick((words.THE, words.THIS)), noun, plural)
    costs, cost = ("coûtent", "cost") if plural else ("coûte", "costs")
    if dice.chance(0.3):
        return sentence(f"combien {costs} {thing}", f"how much {'do' if plural else 'does'} {english} cost", "?")
    amount, english_amount = number(dice.pick(range(2, 60)))
    return sentence(f"{thing} {costs} {amount} euros", f"{english} {cost} {english_amount} euros")


def clock(dice: Dice) -> Pair:
    """`huit heures et demie` is `half past eight`."""
    hour = dice.pick(range(2, 12))
    french, english = f"{words.NUMBER_WORDS[hour][0]} heures", words.NUMBER_WORDS[hour][1]
    french_part, english_part = dice.pick(words.HOUR_PARTS)
    time, english_time = join(french, french_part), english_part.format(english)
    kind = dice.pick(("now", "train", "train", "shop"))
    if kind == "now":
        return sentence(f"il est {time}", f"it is {english_time}")
    if kind == "train":
        city, english_city = dice.pick(words.CITIES)
        return sentence(f"le train pour {city} part à {time}", f"the train to {english_city} leaves at {english_time}")
    place = dice.pick(words.PLACES[3:])
    opens, english_opens = dice.pick((("ouvre", "opens"), ("ferme", "closes")))
    return sentence(
        f"{noun_phrase(words.THE, place, False)[0]} {opens} à {time}",
        f"{place.english[0]} {english_opens} at {english_time}",
    )
