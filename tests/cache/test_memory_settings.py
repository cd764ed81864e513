"""Memory settings become slots, or one clear line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from moex.cache.memory import Memory, parse_bytes
from moex.types import Geometry

MODEL = Geometry(layers=4, experts=8, top_k=2, hidden=1, intermediate=1, expert_bytes=100)


@dataclass
class Needs:
    skeleton: int
    kv_cache: int
    process: int = 0

    @property
    def total(self):
        return self.skeleton + self.kv_cache + self.process


NEEDS = Needs(400, 100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6GiB", 6 * 2**30),
        ("800 MB", 800 * 10**6),
        (1000, 1000),
        ("2e9", 2 * 10**9),
        (1.5e20, 15 * 10**19),
        (".5k", 500),
        ("7b", 7),
    ],
)
def test_bytes_are_read_as_people_write_them(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["plenty", "1.2.3GB", ".", "nan", "-5", "1e400", "6TiB"])
def test_words_are_no_bytes(text):
    with pytest.raises(ValueError, match=rf"memory.budget={text}: expected bytes, e.g. 6GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(("slots", "expected"), [(3, 3), (0.5, 4), (0.1, 2), (8, 8), (0, 0)])
def test_slots_are_a_number_or_a_share(slots, expected):
    assert Memory(slots).resolve(MODEL) == expected


def test_slots_may_be_a_number_for_every_layer():
    assert Memory([0, 8, 1, 2]).resolve(MODEL) == [0, 8, 1, 2]


def test_thin_places_make_as_many_more_of_the_same_bytes():
    wide = MODEL._replace(experts=64)
    whole, thin = (Memory(None, 500 + 20 * 400, rows=rows) for rows in (1.0, 0.4))
    slots = [each.resolve(wide, NEEDS) * 4 + 4 for each in (whole, thin)]
    assert slots[0] == 20 * 4
    assert slots[1] / slots[0] == pytest.approx(2.5, rel=0.02)


def test_thin_places_need_a_selector():
    Memory().refuse_rows()
    with pytest.raises(ValueError, match=r"memory.rows=0.4: slots for a share .* sparsity=none"):
        Memory(rows=0.4).refuse_rows()


def test_a_budget_pays_everything_else_first():
    # 400 skeleton + 100 KV cache + 4 places of staging + n slots in each of 4 layers
    assert Memory(None, 500 + 400 + 3 * 400).resolve(MODEL, NEEDS) == 3
    assert Memory(None, 500 + 400 + 3 * 400 - 1).resolve(MODEL, NEEDS) == 2
    assert Memory(None, 1.0).resolve(MODEL, NEEDS) == 6  # staging and the rest take two
    assert Memory(None, "1GB").resolve(MODEL, NEEDS) == 8
    # Bytes pay for the process, too; a share is one of the model.
    assert Memory(None, 500 + 400 + 3 * 400).resolve(MODEL, Needs(400, 100, 400)) == 2
    assert Memory(None, 1.0).resolve(MODEL, Needs(400, 100, 400)) == 6
    # The least: skeleton, KV cache and staging, with no resident.
    assert Memory(None, 500 + 400).resolve(MODEL, NEEDS) == 0


def test_a_budget_below_the_least_that_runs_says_what_that_is():
    with pytest.raises(ValueError, match=r"=800 .* at least 900 .*skeleton 400, kv_cache 100"):
        Memory(None, 800).resolve(MODEL, NEEDS)


@pytest.mark.parametrize("memory", [Memory(None, None), Memory(3, "1GB")])
def test_slots_and_budget_exclude_each_other(memory):
    with pytest.raises(ValueError, match="exactly one"):
        memory.resolve(MODEL)
