"""Routing policies: the contract, what each of them chooses, and its neutral value."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hydra.utils import get_class

from moex.paths import CONF
from moex.routing.base import NONE
from moex.routing.buddy import Buddy
from moex.routing.cache_prior import CachePrior
from moex.routing.cumulative import Cumulative
from moex.routing.fewer import Fewer
from moex.routing.fixed_k import FixedK
from moex.routing.mass import Mass
from moex.routing.max_rank import MaxRank
from moex.routing.random_swap import RandomSwap
from moex.routing.sensitivity import Sensitivity
from moex.routing.substitute import Substitute
from moex.testing import check_routing
from moex.trace.router_rows import RouterRows
from moex.types import DECODE, PREFILL, Geometry

SHAPE = Geometry(layers=6, experts=8, top_k=2, hidden=8, intermediate=8, expert_bytes=384)
NODES = {
    path.stem: node
    for path in sorted((CONF / "routing").glob("*.yaml"))
    if "_target_" in (node := yaml.safe_load(path.read_text()))
}
LOGITS = [5.0, 4.0, 3.9, 2.0, 1.0, 0.0, 0.0, 0.0]


def rows(*logits, k=2, padding=()):
    """Router rows of tokens with these logits, softmax and normalized."""
    scores = np.array(logits, np.float32)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    powers = np.exp(np.take_along_axis(scores, index, 1))
    weights = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    masked = np.isin(np.arange(len(scores)), padding)
    return RouterRows(scores, index, weights, masked, index)


def bits(*held):
    return np.isin(np.arange(8), held)


def route(policy, held, *logits, phase=DECODE, k=2, clock=0, layer=0):
    """The choice for tokens with these logits, by a fresh policy."""
    policy.reset(SHAPE._replace(top_k=k), 3)
    return policy.route(rows(*logits, k=k), bits(*held), layer, phase, clock).tolist()


@pytest.mark.parametrize("name", NODES)
def test_every_routing_of_the_configuration_keeps_the_contract(name):
    node = dict(NODES[name])
    kind = get_class(node.pop("_target_"))
    check_routing(lambda: kind(**node), SHAPE)


def test_a_held_expert_with_the_bonus_overtakes_an_absent_one():
    assert route(CachePrior(0.1), [2], LOGITS) == [[0, 2]]
    assert route(CachePrior(0.01), [2], LOGITS) == [[0, 1]]  # .05 of bonus, .1 apart
    assert route(CachePrior(0.1), [2], LOGITS, phase=PREFILL) == [[0, 1]]
    assert route(CachePrior(0.3, keep=1), [2, 3], LOGITS) == [[0, 2]]
    assert route(CachePrior(1.0, keep=0), [2, 3], LOGITS) == [[2, 3]]


def test_the_spread_is_a_running_mean_over_tokens_without_padding():
    policy = CachePrior(decay=0.5)
    policy.reset(SHAPE, 0)
    tokens = [[8.0] + [0.0] * 7, [4.0] + [0.0] * 7, [50.0] + [0.0] * 7]
    policy.route(rows(*tokens, padding=[2]), bits(), 0, PREFILL, 0)
    assert policy.spread == {0: 6.0}
    policy.route(rows([2.0] + [0.0] * 7), bits(), 0, DECODE, 1)
    assert policy.spread == {0: 4.0}


def test_only_the_best_m_may_be_chosen():
    assert route(MaxRank(3), [2, 3], LOGITS) == [[0, 2]]
    assert route(MaxRank(3), [3], LOGITS) == [[0, 1]]
    assert route(MaxRank(4), [3], LOGITS) == [[0, 3]]
    assert route(MaxRank(4, keep=0), [2, 3], LOGITS) == [[2, 3]]


def test_only_experts_up_to_the_mass_may_be_chosen():
    flat = [2.0, 1.0, 0.9, 0.8, 0.0, 0.0, 0.0, 0.0]  # .39 .14 .13 .12 ...
    assert route(Cumulative(0.6), [2, 3], flat) == [[0, 2]]
    assert route(Cumulative(0.6), [3], flat) == [[0, 1]]
    assert route(Cumulative(0.7), [3], flat) == [[0, 3]]


def test_an_expert_that_was_barely_chosen_is_substituted():
    assert route(Substitute(), [2], LOGITS) == [[0, 2]]
    assert route(Substitute(), [1, 2], LOGITS) == [[0, 1]]
    assert route(Substitute(), [3], LOGITS) == [[0, 1]], "too far below"
    assert route(Substitute(0.05), [2], LOGITS) == [[0, 1]], "too far above"


def test_the_control_swaps_absent_experts_at_its_rate():
    draw = np.random.default_rng(0)
    policy, replaced = RandomSwap(0.1), 0
    policy.reset(SHAPE, 0)
    for clock in range(300):
        given, held = rows(draw.normal(size=8)), draw.random(8) < 0.4
        final = policy.route(given, held, 0, DECODE, clock)
        changed = final != given.index
        replaced += changed.sum()
        assert held[final[changed]].all()
        assert not held[given.index[changed]].any()
        assert not changed[:, 0].any()
    assert replaced / 600 == pytest.approx(0.1, abs=0.002)


def test_the_control_draws_by_visit_and_token_not_from_a_stream():
    first = route(RandomSwap(1.0), [3, 4, 5, 6, 7], LOGITS, clock=7)
    other = RandomSwap(1.0)
    other.reset(SHAPE, 3)
    other.route(rows(LOGITS), bits(3, 4), 0, DECODE, 6)
    again = other.route(rows(LOGITS), bits(3, 4, 5, 6, 7), 0, DECODE, 7).tolist()
    assert first == again
    seen = {tuple(route(RandomSwap(1.0), [3, 4, 5, 6, 7], LOGITS, clock=n)[0]) for n in range(40)}
    assert seen == {(0, n) for n in range(3, 8)}


def test_light_experts_are_left_out():
    even, uneven = [2.0, 1.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [4.0, 1.0] + [0.0] * 6
    for policy in (Fewer(0.5), Mass(0.2), Sensitivity(0.04), Fewer([0.5] * 6)):
        assert route(policy, [], even, uneven) == [[0, 1], [0, NONE]], policy
        assert route(policy, [], even, uneven, phase=PREFILL) == [[0, 1], [0, NONE]], policy
    assert route(Mass(0.3), [], LOGITS, k=3) == [[0, 1, NONE]]
    assert route(FixedK(1), [], LOGITS) == [[0, NONE]]
    per_layer = FixedK([1, 2, 1, 1, 1, 1])
    assert [route(per_layer, [], LOGITS, layer=n) for n in (0, 1)] == [[[0, NONE]], [[0, 1]]]


def test_sensitivities_of_layers_are_read_from_a_file(tmp_path):
    path = tmp_path / "fisher.json"
    path.write_text(json.dumps([9, 0, 0, 0, 0, 0]))
    uneven = [4.0, 1.0] + [0.0] * 6
    policy = Sensitivity(0.01, str(path))
    assert route(policy, [], uneven, layer=0) == [[0, 1]]
    assert route(policy, [], uneven, layer=1) == [[0, NONE]]
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"holds 2 numbers.*expected 6.*sensitivities=null"):
        policy.reset(SHAPE, 0)


def test_buddies_come_from_pairs_of_a_trace(tmp_path):
    from traces import literal

    from moex.trace.format import write_trace

    pairs = [(0, 1)] * 5 + [(1, 4)] * 3 + [(1, 5)] * 2
    trace = literal([(n % 6, pair) for pair in pairs for n in range(6)], layers=6)
    path = str(write_trace(trace, tmp_path / "pairs.parquet"))
    policy = Buddy(path, alpha=0.7, tau=0.0)
    assert route(policy, [0, 4, 5], LOGITS) == [[0, 4]], "0 is used already"
    assert route(policy, [0, 5], LOGITS) == [[0, 1]], "not in the prefix"
    assert route(Buddy(path, alpha=1.0, tau=0.0), [0, 5], LOGITS) == [[0, 5]]
    assert route(Buddy(path, alpha=1.0, tau=1.0), [0, 5], LOGITS) == [[0, 1]], "entropy"
    assert route(Buddy(path, alpha=1.0, tau=0.0, beta=0.5), [0, 5], LOGITS) == [[0, 1]]
    with pytest.raises(ValueError, match=r"^routing.trace=.*of another model, with 6 layers x 8"):
        Buddy(path).reset(SHAPE._replace(experts=16), 0)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: CachePrior(-0.1), "routing.strength=-0.1: expected 0 or more"),
        (lambda: RandomSwap(2), "routing.rate=2: expected 0 to 1"),
        (lambda: FixedK(0), "routing.k=0: expected 1 or more"),
        (lambda: Fewer([0.5, -1]), r"routing.ratio=\[0.5,-1\]: expected 0 to 1"),
        (lambda: Fewer([0.5]).reset(SHAPE, 0), r"routing.ratio: 1 given, expected one per layer"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()
