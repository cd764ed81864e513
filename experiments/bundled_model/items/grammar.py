"""Minimal pairs: two sentences that differ in one word; one is English and the other is not.

Fourteen phenomena, each a short function that draws a sentence from our own lexicon and marks the
one word that matters as `<good|bad>`; so a pair differs in that word by construction. Where a cue
could be learnt without grammar (a plural is longer, `that` is commoner than `what`), both
directions are drawn equally often. The idea is that of BLiMP (Warstadt et al. 2020, arXiv
1912.00582); the sentences are ours.
"""

import re
from collections.abc import Callable
from random import Random
from typing import Any

from experiments.bundled_model.items.lexicon import (
    ACTED,
    ADJECTIVES,
    CASES,
    CONSONANT,
    DEGREES,
    FACTIVE,
    FEMALE,
    FOUND,
    GAPPED,
    INTRANSITIVE,
    IRREGULAR,
    KNOWING,
    MALE,
    PEOPLE,
    PLACES,
    QUALITIES,
    REFLEXIVE,
    REFLEXIVE_END,
    RELATIVE,
    STATES,
    THINGS,
    TIMES,
    TRANSITIVE,
    VOWEL,
)

Pick = Callable[[Any], Any]


def _number(pick: Pick, nouns: list[str]) -> tuple[str, str, int]:
    """A noun in the right number, in the wrong number, and which is right: 0 singular, 1 plural."""
    forms = pick(nouns).split()
    right = int(pick("01"))
    return forms[right], forms[1 - right], right


def _marked(good: str, bad: str) -> str:
    return f"<{good}|{bad}>"


def _agree(pick: Pick, right: int) -> str:
    """A verb that shows number, followed by what completes it."""
    forms, rest = pick(
        [
            (("was", "were"), pick(STATES)),
            (("is", "are"), pick(STATES)),
            (("has", "have"), "gone away"),
            (("has", "have"), "come home"),
            (("was", "were"), f"standing {pick(PLACES)}"),
        ]
    )
    return f"{_marked(forms[right], forms[1 - right])} {rest}."


def _agreement(pick: Pick) -> str:
    noun, _, right = _number(pick, PEOPLE)
    return f"The {pick(ADJECTIVES)} {noun} {_agree(pick, right)}"


def _agreement_over_phrase(pick: Pick) -> str:
    forms = pick(THINGS).split()
    right = int(pick("01"))
    owner = pick(PEOPLE).split()[1 - right]
    verb = _marked(*(("was", "were") if right == 0 else ("were", "was")))
    link = pick(["of", "behind", "near", "beside"])
    return f"The {forms[right]} {link} the {owner} {verb} {pick(QUALITIES)}."


def _agreement_over_clause(pick: Pick) -> str:
    forms = pick(PEOPLE).split()
    right = int(pick("01"))
    other = pick(PEOPLE).split()[1 - right]
    return f"The {forms[right]} who {pick(RELATIVE)} the {other} {_agree(pick, right)}"


def _determiner(pick: Pick) -> str:
    good, bad, right = _number(pick, THINGS + PEOPLE)
    word = pick((["this", "that", "one", "every"], ["these", "those", "many", "three"])[right])
    start = pick(["She looked at", "He spoke of", "I remember", "We saw", "They asked about"])
    return f"{start} {word} {_marked(good, bad)} {pick(TIMES)}."


def _reflexive(pick: Pick) -> tuple[str, str]:
    verb = pick(REFLEXIVE)
    return verb, REFLEXIVE_END.get(verb) or pick(TIMES)


def _anaphor_gender(pick: Pick) -> str:
    verb, end = _reflexive(pick)
    noun, good, bad = pick(
        [(pick(MALE), "himself", "herself"), (pick(FEMALE), "herself", "himself")]
    )
    return f"The {noun} {verb} {_marked(good, bad)} {end}."


def _anaphor_number(pick: Pick) -> str:
    verb, end = _reflexive(pick)
    singular = pick(["himself", "herself"])
    noun = pick(MALE if singular == "himself" else FEMALE)
    plural = pick(PEOPLE).split()[1]
    subject, good, bad = pick(
        [(noun, singular, "themselves"), (plural, "themselves", pick(["himself", "herself"]))]
    )
    return f"The {subject} {verb} {_marked(good, bad)} {end}."


def _irregular_form(pick: Pick) -> str:
    _, past, participle, rest = pick(IRREGULAR)
    subject = f"The {pick(ADJECTIVES)} {pick(PEOPLE).split()[0]}"
    if pick("01") == "0":
        return f"{subject} {_marked(past, participle)} {rest} {pick(TIMES)}."
    return f"{subject} had {_marked(participle, past)} {rest} {pick(TIMES)}."


def _polarity(pick: Pick) -> str:
    """`ever` and `any` want a negation; what replaces it is about as common."""
    _, _, participle, rest = pick(IRREGULAR)
    noun = pick(PEOPLE).split()[0]
    kind = pick(["no", "never", "nobody"])
    if kind == "no":
        start = _marked("No", pick(["Every", "Some", "Each"]))
        return f"{start} {noun} had ever {participle} {rest} before."
    if kind == "never":
        helper = _marked("never", "ever")
        return f"The {pick(ADJECTIVES)} {noun} had {helper} {participle} {rest} before."
    subject = _marked(pick(["Nobody", "Neither"]), pick(["Somebody", "Everybody"]))
    verb = pick(["said", "found", "knew", "wanted", "saw"])
    return f"{subject} {verb} anything {pick(['at all', 'about it', 'of the kind'])} {pick(TIMES)}."


def _transitivity(pick: Pick) -> str:
    noun = pick(PEOPLE).split()[int(pick("01"))]
    subject = f"The {pick(ADJECTIVES)} {noun}"
    if pick("01") == "0":
        verb, thing = _marked(pick(TRANSITIVE), pick(INTRANSITIVE)), pick(THINGS).split()[0]
        return f"{subject} {verb} the {thing} {pick(TIMES)}."
    return f"{subject} {_marked(pick(INTRANSITIVE), pick(TRANSITIVE))} {pick(TIMES)}."


def _gap(pick: Pick) -> str:
    who, noun = pick(["She", "He", "The doctor", "My father"]), pick(PEOPLE).split()[0]
    if pick("01") == "0":
        return f"{who} {pick(KNOWING)} {_marked('what', 'that')} the {noun} had {pick(GAPPED)}."
    thing = pick(["letter", "book", "picture", "story"])
    return (
        f"{who} {pick(FACTIVE)} {_marked('that', 'what')} the {noun} had {pick(FOUND)} the {thing}."
    )


def _case(pick: Pick) -> str:
    nominative, accusative = pick(CASES)
    noun = f"{pick(ADJECTIVES)} {pick(PEOPLE).split()[0]}"
    if pick("01") == "0":
        start = _marked(nominative, accusative)
        start = re.sub(r"(?<=[<|])[a-z]", lambda match: match[0].upper(), start)
        return f"{start} {pick(ACTED)} the {noun} {pick(TIMES)}."
    verb = pick([*ACTED, "went with", "spoke to", "looked at", "ran after"])
    return f"The {noun} {verb} {_marked(accusative, nominative)} {pick(TIMES)}."


def _auxiliary(pick: Pick) -> str:
    base, past, participle, rest = pick(IRREGULAR)
    subject = f"The {pick(PEOPLE).split()[int(pick('01'))]}"
    helper = pick(["did not", "could not", "will not", "must", "would", "should", "might"])
    return f"{subject} {helper} {_marked(base, pick([past, participle]))} {rest} {pick(TIMES)}."


def _article(pick: Pick) -> str:
    start = pick(["He bought", "She saw", "They found", "There was", "It was", "I dreamt of"])
    (good, bad), word = pick([(("an", "a"), pick(VOWEL)), (("a", "an"), pick(CONSONANT))])
    noun = pick(THINGS).split()[0]
    return f"{start} {_marked(good, bad)} {word} {noun} {pick(PLACES)}."


def _comparison(pick: Pick) -> str:
    plain, more = pick(DEGREES).split()
    noun, other = pick(THINGS).split()[0], pick(THINGS).split()[0]
    if pick("01") == "0":
        return f"The {noun} was {_marked(more, plain)} than the {other} {pick(PLACES)}."
    return f"The {noun} was as {_marked(plain, more)} as the {other} {pick(PLACES)}."


PHENOMENA: dict[str, Callable[[Pick], str]] = {
    "agreement": _agreement,
    "agreement_over_phrase": _agreement_over_phrase,
    "agreement_over_clause": _agreement_over_clause,
    "determiner_number": _determiner,
    "anaphor_gender": _anaphor_gender,
    "anaphor_number": _anaphor_number,
    "irregular_form": _irregular_form,
    "negative_polarity": _polarity,
    "transitivity": _transitivity,
    "gap": _gap,
    "pronoun_case": _case,
    "auxiliary_form": _auxiliary,
    "article": _article,
    "comparison": _comparison,
}


def minimal_pair(phenomenon: str, rng: Random) -> tuple[str, str]:
    """Draw (grammatical, ungrammatical) for one phenomenon."""
    sentence = PHENOMENA[phenomenon](rng.choice)
    return re.sub(r"<(.*?)\|.*?>", r"\1", sentence), re.sub(r"<.*?\|(.*?)>", r"\1", sentence)
