"""Every policy that has a config: the contract, golden counts, and traces with known winners."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
from pathlib import Path

import pytest
import yaml

from moex.cache.core import ExpertCache
from moex.testing import check_policy
from moex.types import DECODE, PREFILL, Access, Expert, Future, Geometry, Now, Scope

CONFIGS = {
    path.stem: path for path in sorted((Path(__file__).parents[2] / "conf/cache").glob("*.yaml"))
}
GEOMETRY = Geometry(4, 16, 2, 4, 4, 48)
SLOTS = 6

# Loads of the trace below at 6 of 16 slots: (pool per layer, one pool for all). A change here is a
# change of the policy; the learned one is left out, its floating-point products may differ by CPU.
GOLDEN = {
    "arc": (1618, 1663),
    "belady": (1005, 860),
    "belady_bypass": (917, 841),
    "eam": (1565, 1607),
    "fifo": (1838, 1981),
    "forecast": (1623, 1680),
    "gdsf": (1547, 1637),
    "least_stale": (1623, 2062),
    "lecar": (1542, 1628),
    "lfru": (1521, 1557),
    "lfu": (1565, 1939),
    "lfu_aged": (1423, 1596),
    "lhd": (1572, 1612),
    "lru": (1623, 1680),
    "lru_k": (1540, 1699),
    "mrs": (1620, 1627),
    "mru": (2180, 3006),
    "none": (4800, 4800),
    "random": (1785, 2014),
    "s3fifo": (1502, 1599),
    "sieve": (1524, 1753),
    "slru": (1535, 1577),
    "static": (2593, 2614),
    "two_q": (1603, 1639),
    "w_tinylfu": (1427, 1648),
    "window_lfu": (1410, 1635),
}


def build(name: str):
    fields = yaml.safe_load(CONFIGS[name].read_text(encoding="utf-8"))
    module, _, kind = fields.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), kind)(**fields)


def trace(passes: int, shape) -> list[Access]:
    """`shape(pass, layer)` gives the experts of a visit; router rows favour them, best first."""
    accesses = []
    for clock in range(passes * GEOMETRY.layers):
        position, layer = divmod(clock, GEOMETRY.layers)
        chosen = shape(position, layer)
        scores = [0.01] * GEOMETRY.experts
        for rank, index in enumerate(chosen):
            scores[index] = 0.5 / (rank + 1)
        accesses.append(Access(clock, position, layer, DECODE, tuple(chosen), tuple(scores)))
    return accesses


def mixed() -> list[Access]:
    """Skewed and sticky routing whose favourites change after half of the run."""
    draws = random.Random(2026)
    weights = [1 / (rank + 1) for rank in range(GEOMETRY.experts)]
    last: dict[int, list[int]] = {}

    def shape(position: int, layer: int) -> list[int]:
        chosen = draws.sample(last[layer], 1) if layer in last and draws.random() < 0.4 else []
        while len(chosen) < GEOMETRY.top_k:
            rank = draws.choices(range(GEOMETRY.experts), weights)[0]
            index = (rank * 5 + layer + (position >= 300) * 7) % GEOMETRY.experts
            if index not in chosen:
                chosen.append(index)
        last[layer] = chosen
        return chosen

    return trace(600, shape)


def loads(name: str, accesses: list[Access], pool: str = "layer", slots: int = SLOTS) -> int:
    cache = ExpertCache(build(name), GEOMETRY, slots, pool, future=Future(accesses))
    return sum(len(plan.loads) for access in accesses for plan in cache.request(access))


@pytest.mark.parametrize("name", CONFIGS)
def test_policy_keeps_the_contract(name):
    check_policy(lambda: build(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_what_it_is_how_to_run_it_and_every_field(name):
    text = CONFIGS[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"cache={name}" in text.split("_target_")[0]
    given = yaml.safe_load(text)
    given.pop("_target_")
    assert given == dataclasses.asdict(build(name))


def test_every_policy_has_golden_counts():
    assert set(GOLDEN) == set(CONFIGS) - {"learned"}


@pytest.mark.parametrize("name", GOLDEN)
def test_loads_are_those_recorded(name):
    accesses = mixed()
    assert (loads(name, accesses), loads(name, accesses, "global")) == GOLDEN[name]


def test_learned_lies_between_the_optimum_and_random():
    accesses = mixed()
    assert GOLDEN["belady_bypass"][0] < loads("learned", accesses) < GOLDEN["random"][0]


def test_cyclic_scan_larger_than_the_pool_is_won_by_mru():
    scan = trace(80, lambda position, layer: [position * 2 % 8, (position * 2 + 1) % 8])
    lost = {name: loads(name, scan) for name in ("lru", "fifo", "mru")}
    assert lost["lru"] == lost["fifo"] == len(scan) * GEOMETRY.top_k, "always the next one is gone"
    assert lost["mru"] < lost["lru"] / 2


def test_hot_expert_among_one_hit_wonders_is_kept_by_frequency():
    def shape(position: int, layer: int) -> list[int]:
        if position % 4 == 0:
            return [0, 1]
        return [2 + (2 * position) % 14, 3 + (2 * position) % 14]

    flood = trace(200, shape)
    lru = loads("lru", flood)
    for name in ("lfu", "lfru", "lru_k", "w_tinylfu"):
        assert loads(name, flood) < lru, name


def test_change_of_favourites_is_forgiven_by_fading_counts():
    draws = random.Random(1)

    def shape(position: int, layer: int) -> list[int]:
        return draws.sample(range(7) if position < 300 else range(8, 15), 2)

    shift = trace(400, shape)
    for name in ("lfu_aged", "window_lfu", "lru"):
        assert loads(name, shift) < loads("lfu", shift), name


def test_least_stale_with_a_pool_per_layer_is_lru():
    accesses = mixed()
    assert loads("least_stale", accesses) == loads("lru", accesses)


def test_mrs_counts_nearly_chosen_experts():
    def visit(clock: int, chosen: tuple[int, ...], near: int) -> Access:
        row = [0.0] * 16
        row[near] = 0.4
        for index in chosen:
            row[index] = 0.5
        return Access(clock, clock, 0, DECODE, chosen, tuple(row))

    # 3 was used before 4 and 5, but the router nearly chose it again.
    cache = ExpertCache(build("mrs"), GEOMETRY, 4)
    history = [visit(0, (2, 3), 9), visit(1, (4, 5), 3), visit(2, (0, 1), 3)]
    evicted = [
        left for access in history for plan in cache.request(access) for left in plan.evictions
    ]
    assert [left.expert.index for left in evicted] == [2, 4]


def test_mrs_without_router_scores_says_what_to_record():
    cache = ExpertCache(build("mrs"), GEOMETRY, 4)
    with pytest.raises(ValueError, match=r"holds no router scores.*mode=live"):
        list(cache.request(Access(0, 0, 0, DECODE, (0, 1))))


def test_static_pins_the_best_of_a_histogram(tmp_path):
    from moex.cache.static import Static

    path = tmp_path / "counts.json"
    path.write_text(json.dumps([[index % 5 for index in range(16)]] * 4))
    cache = ExpertCache(Static(str(path)), GEOMETRY, 3)
    list(cache.request(Access(0, 0, 0, DECODE, tuple(range(16)))))
    assert sorted(expert.index for expert in cache.residents(0)) == [4, 9, 14]


@pytest.mark.parametrize("seed", range(4))
def test_lecar_trusts_the_side_that_is_not_to_blame(seed):
    policy, now = build("lecar"), Now(0, 0, 0, DECODE)
    policy.reset(Scope(capacity=2, layers=[0], experts=4, top_k=1, seed=seed))
    oldest, rarest = Expert(0, 0), Expert(0, 1)
    for expert in (oldest, oldest, rarest):
        policy.on_access(expert, now, hit=False)
    gone = policy.victim([oldest, rarest], now)
    policy.on_evict(gone, now)
    policy.on_access(gone, now, hit=False)
    assert (policy.trust < 0.5) == (gone == oldest)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("lfu", "decay", 0.0),
        ("lru_k", "k", 0),
        ("s3fifo", "small", 1.0),
        ("s3fifo", "ghost", -1.0),
        ("mrs", "alpha", 2.0),
        ("mrs", "top", -1),
        ("static", "calibration", 0),
        ("slru", "protected", 1.0),
        ("two_q", "first", 0.0),
        ("two_q", "remembered", 0.0),
        ("w_tinylfu", "window", 1.5),
        ("w_tinylfu", "protected", 0.0),
        ("w_tinylfu", "sample", 0),
        ("gdsf", "weights", [0.0]),
        ("lecar", "rate", 0.0),
        ("lecar", "forget", 1.0),
        ("lhd", "period", 0),
        ("lhd", "fade", 0.0),
        ("window_lfu", "window", 0),
        ("eam", "floor", 0.0),
        ("eam", "past", 2.0),
        ("learned", "memory", 0.0),
        ("learned", "ridge", 0.0),
    ],
)
def test_wrong_field_is_refused_in_one_line_that_names_it(name, field, value):
    with pytest.raises(ValueError, match=rf"^cache\.{field}=.*expected") as error:
        type(build(name))(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lfu", "lfru"])
def test_counts_of_residents_begin_when_they_enter(name):
    policy = dataclasses.replace(build(name), perfect=False)
    cache = ExpertCache(policy, Geometry(1, 8, 1, 4, 4, 48), 2)
    for clock in range(3):  # 2 and 3 only pass through
        list(cache.request(Access(clock, clock, 0, PREFILL, (0, 1, 2, 3))))
    list(cache.request(Access(3, 3, 0, DECODE, (0, 2))))
    (plan,) = cache.request(Access(4, 4, 0, DECODE, (3,)))
    assert [left.expert.index for left in plan.evictions] == [2]
