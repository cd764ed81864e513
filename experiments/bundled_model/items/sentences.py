"""Makes test items: choices of which the model should find one likelier than the rest.

Four tasks. `replace`: a sentence against itself with one content word replaced by a random word of
like frequency. `swap`: against itself with two adjacent words swapped. `cloze`: the right word for
a blank among four of like frequency. `grammar`: minimal pairs, the phenomena in turn. All choices
are whole sentences, so none is favoured by how it is cut into context and continuation.

Sentences come from our own text (`assets/tasks/sentences.txt`, where `[a|b]` are alternatives that
all fit) or from held-out text in a folder. Items are made one after the other from a seeded
stream, so the first 100 of 5,000 items are the 100 items of the quick form.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from moex.evals.grammar import PHENOMENA, minimal_pair
from moex.evals.text import HELD_OUT, documents, sentences
from moex.evals.words import FUNCTION_WORDS, WORD, Ranking, rank_words, shipped_ranking, word_list

ALTERNATIVES = re.compile(r"\[(.*?)\]")
# Words that may stand before or after their neighbour: swapping them need not harm a sentence.
MOVABLE = frozenset(word_list("movable_words"))


class Sentence(NamedTuple):
    """A sentence, which sentence it is a variant of, and words that may not be put into it."""

    text: str
    origin: int
    avoid: frozenset[str]


class Item(NamedTuple):
    """Choices and the index of the right one; items of one origin are not independent."""

    choices: tuple[str, ...]
    gold: int
    group: str
    origin: int


def own_sentences(rng: Random) -> Iterator[Sentence]:
    """Yield variants of our own sentences without end, every sentence once a round."""
    lines = (files("moex") / "assets/tasks/sentences.txt").read_text("utf-8").splitlines()
    order = list(enumerate(lines))
    rng.shuffle(order)
    for origin, line in cycle(order):
        text = ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), line)
        yield Sentence(text, origin, frozenset(WORD.findall(line)))


@cache
def _held_out(folder: Path) -> tuple[list[str], Ranking]:
    texts = [text for _, _, text in documents(folder, HELD_OUT)]
    found = dict.fromkeys(sentence for text in texts for sentence in sentences(text))
    return list(found), rank_words(texts)


def held_out_sentences(folder: Path, rng: Random) -> Iterator[Sentence]:
    """Yield every plain sentence of the held-out documents once, in random order."""
    order = list(enumerate(_held_out(folder)[0]))
    rng.shuffle(order)
    for origin, text in order:
        yield Sentence(text, origin, frozenset(WORD.findall(text)))


def _spots(sentence: Sentence, ranking: Ranking) -> list[tuple[int, int, str]]:
    """Where the content words of known rank stand that occur once: (start, end, word)."""
    found = [(match.start(), match.end(), match[0]) for match in WORD.finditer(sentence.text)]
    words = [word for _, _, word in found]
    return [spot for spot in found if spot[2] in ranking.place and words.count(spot[2]) == 1]


def _substitute(
    sentence: Sentence, ranking: Ranking, rng: Random, alternatives: int
) -> list[str] | None:
    spots = _spots(sentence, ranking)
    if not spots:
        return None
    start, end, word = rng.choice(spots)
    others = ranking.draw(word, alternatives, sentence.avoid, rng)
    choices = [sentence.text[:start] + other + sentence.text[end:] for other in (word, *others)]
    return choices if others else None


def replace(sentence: Sentence, ranking: Ranking, rng: Random) -> list[str] | None:
    """The sentence, and the sentence with one content word replaced."""
    return _substitute(sentence, ranking, rng, 1)


def cloze(sentence: Sentence, ranking: Ranking, rng: Random) -> list[str] | None:
    """The sentence, and the sentence with each of three other words instead of one."""
    return _substitute(sentence, ranking, rng, 3)


def swap(sentence: Sentence, ranking: Ranking, rng: Random) -> list[str] | None:
    """The sentence, and the sentence with two neighbours swapped, one of them a content word."""
    words = sentence.text.split(" ")

    def swappable(left: str, right: str) -> bool:
        return (
            left.isalpha()
            and right.isalpha()
            and (left + right).islower()
            and not {left, right} & MOVABLE
            and not (left.endswith("ly") or right.endswith("ly"))
            and not (left in FUNCTION_WORDS and right in FUNCTION_WORDS)
            and left != right
        )

    starts = [i for i in range(1, len(words) - 1) if swappable(words[i], words[i + 1])]
    if not starts:
        return None
    i = rng.choice(starts)
    swapped = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
    return [sentence.text, " ".join(swapped)]


Maker = Callable[[Sentence, Ranking, Random], list[str] | None]
MAKERS: dict[str, Maker] = {"replace": replace, "swap": swap, "cloze": cloze}


def shuffled(choices: list[str], rng: Random, group: str, origin: int) -> Item:
    """An item of choices whose first is right; its index is random, so that a tie earns nothing."""
    order = rng.sample(range(len(choices)), len(choices))
    return Item(tuple(choices[i] for i in order), order.index(0), group, origin)


def _grammar(rng: Random) -> Iterator[Item]:
    for origin, phenomenon in zip(count(), cycle(PHENOMENA)):
        yield shuffled(list(minimal_pair(phenomenon, rng)), rng, phenomenon, origin)


def _sentence_items(kind: str, rng: Random, folder: Path | None) -> Iterator[Item]:
    ranking = shipped_ranking() if folder is None else _held_out(folder)[1]
    source = own_sentences(rng) if folder is None else held_out_sentences(folder, rng)
    for sentence in source:
        choices = MAKERS[kind](sentence, ranking, rng)
        if choices:
            yield shuffled(choices, rng, "", sentence.origin)


def make_items(kind: str, number: int, seed: int, folder: Path | None = None) -> list[Item]:
    """Draw distinct items of a kind: from our own text, or from the held-out text of a folder.

    Raises:
        ValueError: the text yields fewer items than asked for.
    """
    rng = Random(f"{kind}/{seed}")
    stream = _grammar(rng) if kind == "grammar" else _sentence_items(kind, rng, folder)
    items = list(islice(_distinct(stream, 20 * number + 1000), number))
    if len(items) < number:
        raise ValueError(
            f"{number} items of '{kind}' asked for, the text at {folder or 'moex/assets/tasks'} "
            f"yields {len(items)}: give limit={len(items)} or more text"
        )
    return items


def _distinct(stream: Iterable[Item], tries: int) -> Iterator[Item]:
    """Leave out repeated items; give up after so many tries, for our own sentences never end."""
    seen = set[frozenset[str]]()
    for item in islice(stream, tries):
        key = frozenset(item.choices)
        if key not in seen:
            seen.add(key)
            yield item


def checksum(items: Iterable[object]) -> str:
    """16 hex digits that name exactly these items in this order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
