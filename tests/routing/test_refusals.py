"""What routing policies do not go with is refused in one line."""

from __future__ import annotations

import pytest
from small_models import random_family
from traces import random_trace

from moex.cache.belady import Belady
from moex.cache.lru import LRU
from moex.models.experts_interface import moe_layers
from moex.models.router_scores import Lookahead
from moex.prefetch.oracle import Oracle
from moex.routing.cache_prior import CachePrior
from moex.routing.fewer import Fewer
from moex.runner.assemble import Setup
from moex.runner.router_logits import RouterLogits
from moex.sim.replay import replay


@pytest.mark.parametrize(
    ("policy", "prefetcher", "line"),
    [
        (Belady(), None, "cache=belady with routing=cache_prior: .*; try cache=lru"),
        (LRU(), Oracle(), "prefetch=oracle with routing=cache_prior: .*; try prefetch=gate"),
    ],
)
def test_an_oracle_beside_a_residency_dependent_routing_is_refused(policy, prefetcher, line):
    with pytest.raises(ValueError, match=line):
        Setup(policy, prefetcher=prefetcher, routing=CachePrior())
    assert Setup(policy, prefetcher=prefetcher, routing=Fewer()).needs_future


def test_a_trace_without_router_rows_cannot_be_routed_anew():
    decisions = Setup(LRU(), routing=CachePrior()).decisions("ram")
    with pytest.raises(ValueError, match=r"holds no router rows.* or try routing=none"):
        replay(decisions, random_trace(0))


def test_a_family_whose_logits_do_not_give_weights_is_refused():
    model = random_family("phimoe")
    lookahead = Lookahead([layer.router for layer in moe_layers(model)], 64, 3)
    with pytest.raises(ValueError, match=r"^routing: the routers of Phi.*; try routing=none$"):
        RouterLogits(lookahead, 64, type(model).__name__)
    other = random_family("gpt_oss")
    lookahead = Lookahead([layer.router for layer in moe_layers(other)], 64, 3)
    assert RouterLogits(lookahead, 64, "gpt_oss").rule.normalized
