"""Which words count as content words, and how common each of them is.

`words.txt` holds the 3,700 commonest content words of old novels (the training split
of `experiments/bundled_model/training`), the commonest first: facts, made by `rank_words`, less
seven words that do not belong in a test sentence. Held-out text is ranked by its own counts.
Frequencies follow Zipf's law, so a ratio of ranks is a ratio of frequencies: the rank is all that
matching needs.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

WORD = re.compile(r"[A-Za-z]+")
NEIGHBOURHOOD = 1.25
LEAST = 5
"""Uses of a word that is ranked."""


def word_list(name: str) -> list[str]:
    """The words of a list beside this file, in its order."""
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8").split()


FUNCTION_WORDS = frozenset(word_list("function_words"))


@dataclass(frozen=True)
class Ranking:
    """Content words, the commonest first."""

    words: list[str]
    place: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", {word: i for i, word in enumerate(self.words)})

    def matched(self, word: str, avoid: Collection[str]) -> list[str]:
        """Words about as common as this one that could replace it but are not akin to it.

        Akin is what starts with the same four letters; what starts with a vowel is only matched
        with what does, so that a preceding `a` or `an` gives nothing away.
        """
        rank = self.place[word] + 1
        first = max(0, math.ceil(rank / NEIGHBOURHOOD) - 3)
        near = self.words[first : int(rank * NEIGHBOURHOOD) + 2]
        return [
            other
            for other in near
            if other[:4] != word[:4]
            and (other[0] in "aeiou") == (word[0] in "aeiou")
            and other not in avoid
        ]

    def draw(self, word: str, count: int, avoid: Collection[str], rng: Random) -> list[str]:
        """Draw so many matched words; an empty list when there are too few."""
        matched = self.matched(word, avoid)
        return rng.sample(matched, count) if len(matched) >= count else []


def rank_words(texts: Iterable[str]) -> Ranking:
    """Count the content words of a text that are not mostly names, and put the commonest first."""
    lower, upper = Counter[str](), Counter[str]()
    for text in texts:
        for word in WORD.findall(text):
            (lower if word.islower() else upper)[word.lower()] += 1
    return Ranking(
        [
            word
            for word, count in sorted(lower.items(), key=lambda item: (-item[1], item[0]))
            if count >= LEAST
            and count > 2 * upper[word]
            and len(word) > 2
            and word not in FUNCTION_WORDS
        ]
    )


@cache
def shipped_ranking() -> Ranking:
    """The ranking of `words.txt`."""
    return Ranking(word_list("words"))
