"""Writes the test items that come with moex, or such items made of held-out text.

    python experiments/bundled_model/items/make.py                  # moex/assets/items.jsonl.xz
    python experiments/bundled_model/items/make.py --text FOLDER    # FOLDER/items.jsonl.xz

`moex.evals.items` describes the tasks. Sentences come from our own text (`sentences.txt`, where
`[a|b]` are alternatives that all fit) or from held-out text in a folder. Items are made one after
the other from a seeded stream, so the first 100 of 5,000 items are the 100 items of the quick form.
"""

import json
import lzma
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from experiments.bundled_model.items.grammar import PHENOMENA, minimal_pair
from experiments.bundled_model.items.words import (
    FUNCTION_WORDS,
    WORD,
    Ranking,
    rank_words,
    shipped_ranking,
    word_list,
)
from experiments.harness import arguments
from moex.evals.items import NAME, Item, shuffled
from moex.evals.text import HELD_OUT, documents
from moex.paths import ASSETS

# A full stop, unless of a title; the sentence must be plain: no quotation, number or abbreviation.
SENTENCE_END = re.compile(r"(?<!Mr\.)(?<!Mrs\.)(?<!Dr\.)(?<!St\.)(?<=[.!?])\s+")
PLAIN_SENTENCE = re.compile(r"[A-Z][A-Za-z',;: -]+[a-z]{2}\.")
SENTENCE_WORDS = range(8, 26)
ALTERNATIVES = re.compile(r"\[(.*?)\]")
# Words that may stand before or after their neighbour: swapping them need not harm a sentence.
MOVABLE = frozenset(word_list("movable_words"))


class Sentence(NamedTuple):
    """A sentence, which sentence it is a variant of, and words that may not be put into it."""

    text: str
    origin: int
    avoid: frozenset[str]


def sentences(text: str) -> Iterator[str]:
    """Yield the plain sentences of a document, 8 to 25 words each."""
    for paragraph in text.split("\n\n"):
        for sentence in SENTENCE_END.split(paragraph):
            if PLAIN_SENTENCE.fullmatch(sentence) and sentence.count(" ") + 1 in SENTENCE_WORDS:
                yield sentence


def own_sentences(rng: Random) -> Iterator[Sentence]:
    """Yield variants of our own sentences without end, every sentence once a round."""
    lines = Path(__file__).with_name("sentences.txt").read_text("utf-8").splitlines()
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
            f"--count {number}: {folder or 'sentences.txt'} yields {len(items)} items of '{kind}'; "
            f"try --count {len(items)}, or give more text"
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


def own_texts(number: int, seed: int) -> list[dict[str, Any]]:
    """The first `number` different variants of our own sentences; of one sentence: one origin."""
    sampled = islice(own_sentences(Random(f"loss/{seed}")), 20 * number + 1000)
    origins = {sentence.text: sentence.origin for sentence in sampled}
    return [{"text": t, "origin": n} for t, n in islice(origins.items(), number)]


def lines(number: int, folder: Path | None = None) -> Iterator[str]:
    """The lines of the file of items: every task after the other."""
    for kind in (*MAKERS, *(["grammar"] if folder is None else [])):
        for item in make_items(kind, number, 0, folder):
            yield json.dumps({"task": kind, **item._asdict()})
    for text in own_texts(number, 0) if folder is None else []:
        yield json.dumps({"task": "loss", **text})


def main() -> None:
    """Write the file."""
    given = arguments(
        __doc__,
        tiny={"count": 10},
        text=(None, "a folder of held-out text instead of our own", Path),
        count=(5000, "items of every task"),
        out=(None, "default: where moex reads them", Path),
    )
    path = given.out or (given.text or ASSETS) / NAME
    if given.tiny and not given.out:
        path = Path(os.devnull)
    with lzma.open(path, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as file:
        file.writelines(line + "\n" for line in lines(given.count, given.text))
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
