"""What `Decisions` builds, and settings that do not work together."""

from __future__ import annotations

import pytest
from traces import random_trace

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.miss.defer import Defer
from moex.miss.fetch import Fetch
from moex.miss.low_bits import LowBits
from moex.routing.cache_prior import CachePrior
from moex.sim.replay import replay
from moex.types import Geometry

GEOMETRY = Geometry(layers=3, experts=8, top_k=2, hidden=8, intermediate=16, expert_bytes=1536)
HOST = Memory(4, host=24 * 1536)


@pytest.mark.study  # compiles
def test_a_long_replay_that_fetches_every_miss_is_compiled(monkeypatch):
    monkeypatch.setattr("moex.sim.arrays.run.WORTH_IT", 1)
    trace = random_trace(0, 3, 8, 2, tokens=20, sequences=2)
    report = replay(Decisions(LRU(), Memory(4), miss=Fetch()), trace)
    assert (report.replay, report.interpreted_because) == ("compiled", None)


@pytest.mark.parametrize(
    ("parts", "instead"),
    [
        ({"miss": LowBits(), "slices": (900, 636)}, "miss=fetch, or memory.host=null"),
        ({"miss": Defer()}, "miss=fetch, or memory.host=null"),
        ({"routing": CachePrior()}, "routing.background=false, or memory.host=null"),
        ({"neurons": 0.5}, "sparsity=none, or memory.host=null"),
    ],
)
def test_a_host_tier_is_refused_beside_what_it_cannot_hold(parts, instead):
    with pytest.raises(ValueError, match=r"^memory.host=\d+ with ") as error:
        Decisions(LRU(), HOST, **parts).build(GEOMETRY)
    assert str(error.value).endswith(f"try {instead}")


def test_slots_by_layer_are_refused_beside_slices():
    decisions = Decisions(LRU(), Memory([4, 3, 4]), miss=LowBits(), slices=(900, 636))
    with pytest.raises(ValueError, match=r"^memory.slots=\[4, 3, 4\] with miss=low_bits"):
        decisions.build(GEOMETRY)
