"""The generator of the bundled items, experiments/bundled_model/items."""

import lzma
import re
import sys
from random import Random

import pytest

from experiments.bundled_model.items import make
from experiments.bundled_model.items.grammar import PHENOMENA, minimal_pair
from experiments.bundled_model.items.make import make_items, own_sentences, own_texts, sentences
from experiments.bundled_model.items.words import (
    FUNCTION_WORDS,
    WORD,
    rank_words,
    shipped_ranking,
)
from moex.evals.items import NAME, checksum, read_items
from moex.paths import ASSETS

pytestmark = pytest.mark.study

KINDS = ("replace", "swap", "cloze", "grammar")
SENTENCE_KINDS = KINDS[:3]


def good_and_bad(item):
    bad = [choice for i, choice in enumerate(item.choices) if i != item.gold]
    return item.choices[item.gold], bad


def differing_words(one, other):
    pairs = list(zip(WORD.findall(one), WORD.findall(other), strict=True))
    return [pair for pair in pairs if pair[0] != pair[1]]


@pytest.fixture(scope="module", params=KINDS)
def items(request):
    return request.param, make_items(request.param, 5000, seed=0)


def test_there_are_five_thousand_distinct_items_of_every_kind(items):
    _, made = items
    assert len({frozenset(item.choices) for item in made}) == 5000


def test_items_are_the_same_every_time_and_the_short_form_is_their_beginning(items):
    kind, made = items
    assert make_items(kind, 100, seed=0) == made[:100]
    assert checksum(make_items(kind, 100, seed=0)) == checksum(made[:100])


def test_another_seed_gives_other_items(items):
    kind, made = items
    assert checksum(make_items(kind, 100, seed=1)) != checksum(made[:100])


def test_the_right_choice_has_no_preferred_place(items):
    _, made = items
    places = len(made[0].choices)
    for place in range(places):
        share = sum(item.gold == place for item in made) / len(made)
        assert share == pytest.approx(1 / places, abs=0.03)


def test_the_first_hundred_items_are_of_a_hundred_different_sentences(items):
    _, made = items
    assert len({item.origin for item in made[:100]}) == 100


@pytest.mark.parametrize("kind", ["replace", "cloze"])
def test_wrong_choices_replace_one_content_word_by_one_of_like_frequency(kind):
    place = shipped_ranking().place
    for item in make_items(kind, 2000, seed=0):
        good, wrong = good_and_bad(item)
        assert len(wrong) == {"replace": 1, "cloze": 3}[kind]
        for bad in wrong:
            [(word, other)] = differing_words(good, bad)
            assert not {word, other} & FUNCTION_WORDS
            low, high = sorted((place[word] + 1, place[other] + 1))
            assert high <= 1.25 * low + 2.5
            assert re.sub(rf"\b{word}\b", other, good) == bad


def test_a_replacement_is_never_an_alternative_that_would_fit():
    drawn = own_sentences(Random(0))
    words = {}
    for sentence in (next(drawn) for _ in range(400)):
        words[sentence.origin] = sentence.avoid
    for item in make_items("replace", 1000, seed=0):
        good, [bad] = good_and_bad(item)
        [(_, other)] = differing_words(good, bad)
        assert other not in words[item.origin]


def test_a_swap_exchanges_two_neighbours_and_nothing_else():
    for item in make_items("swap", 2000, seed=0):
        good, [bad] = good_and_bad(item)
        before, after = good.split(" "), bad.split(" ")
        places = [i for i, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) == 2]
        first, second = places
        assert second == first + 1
        assert (before[first], before[second]) == (after[second], after[first])


def test_our_sentences_are_whole_and_have_no_markup_left():
    drawn = own_sentences(Random(0))
    for sentence in (next(drawn) for _ in range(1000)):
        assert re.fullmatch(r"[A-Z][A-Za-z,' ]+\.", sentence.text)


def test_a_text_that_is_too_short_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no held-out text at .*novels"):
        make_items("replace", 10, seed=0, folder=tmp_path)


def test_ranking_counts_content_words_and_leaves_names_out():
    text = "The dog saw the dog and the cat. " * 5 + "Rose met a rose. Rose left. " * 5
    assert rank_words([text]).words == ["dog", "cat", "left", "met"]


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_minimal_pairs_differ_in_one_word(phenomenon):
    rng = Random(0)
    pairs = {minimal_pair(phenomenon, rng) for _ in range(6000)}
    assert len(pairs) > 1000
    for good, bad in pairs:
        assert len(differing_words(good, bad)) == 1
        assert re.fullmatch(r"[A-Z][A-Za-z ]+\.", good)


def test_grammar_covers_its_phenomena_in_turn():
    groups = [item.group for item in make_items("grammar", 100, seed=0)]
    assert len(set(groups)) == len(PHENOMENA) >= 8
    assert max(map(groups.count, groups)) - min(map(groups.count, groups)) <= 2


@pytest.mark.parametrize(
    ("phenomenon", "one", "other"),
    [
        ("agreement", r"<(was|is|has)", r"<(were|are|have)"),
        ("article", r"<a\|", r"<an\|"),
        ("gap", r"<what", r"<that"),
        ("comparison", r"<\w+er\|", r" as <"),
    ],
)
def test_both_directions_of_a_cue_are_drawn_equally_often(phenomenon, one, other):
    rng = Random(0)
    drawn = [PHENOMENA[phenomenon](rng.choice) for _ in range(2000)]
    counts = [sum(bool(re.search(pattern, text)) for text in drawn) for pattern in (one, other)]
    assert counts[0] + counts[1] >= 2000
    assert abs(counts[0] - counts[1]) < 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", SENTENCE_KINDS)
def test_held_out_text_gives_five_thousand_items(shared, kind):
    items = make_items(kind, 5000, seed=0, folder=shared / "text")
    assert len({item.origin for item in items}) == 5000
    assert make_items(kind, 50, seed=0, folder=shared / "text") == items[:50]


def test_the_bundled_file_is_what_the_generator_makes():
    made = "".join(line + "\n" for line in make.lines(5000))
    with lzma.open(ASSETS / NAME, "rt", encoding="utf-8") as file:
        assert file.read() == made


def test_items_of_held_out_text_are_written_and_read(shared, tmp_path, monkeypatch, capsys):
    words = ["make.py", "--text", str(shared / "text"), "--out", str(tmp_path / NAME), "--tiny"]
    monkeypatch.setattr(sys, "argv", words)
    make.main()
    for kind in SENTENCE_KINDS:
        items = make_items(kind, 10, seed=0, folder=shared / "text")
        read = read_items(kind, 10, tmp_path)
        assert [tuple(item["choices"]) for item in read] == [item.choices for item in items]
    assert str(tmp_path / NAME) in capsys.readouterr().out


def test_the_tiny_form_of_the_script_leaves_the_bundled_file_alone(monkeypatch, capsys):
    before = (ASSETS / NAME).read_bytes()
    monkeypatch.setattr(sys, "argv", ["bundled_model/items/make.py", "--tiny"])
    make.main()
    assert (ASSETS / NAME).read_bytes() == before
    assert capsys.readouterr().out


def test_variants_of_our_own_sentences_differ_and_know_their_sentence():
    texts = own_texts(500, seed=0)
    assert len({text["text"] for text in texts}) == 500
    assert len({text["origin"] for text in texts}) < 300
    assert own_texts(20, seed=0) == texts[:20]
    assert own_texts(20, seed=1) != texts[:20]


def test_plain_sentences_are_kept_and_others_left():
    text = (
        'Mr. Hill went away in the morning. "No," he said to her in a very low voice. '
        "She walked slowly down to the river and came back. In 1850 it was sold to a man in town."
    )
    assert list(sentences(text)) == ["She walked slowly down to the river and came back."]
