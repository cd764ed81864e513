"""Routers that rank by sigmoid scores, biases and groups: the same choices, weights and replays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from live_runs import both
from small_models import FAMILIES, random_family

from moex.cache.lru import LRU
from moex.models.experts_interface import moe_layers
from moex.models.router_scores import Lookahead
from moex.prefetch.gate import Gate
from moex.routing.base import EXCLUDED
from moex.routing.cache_prior import CachePrior
from moex.routing.cumulative import Cumulative
from moex.routing.fixed_k import FixedK
from moex.routing.max_rank import MaxRank
from moex.routing.random_swap import RandomSwap
from moex.routing.substitute import Substitute
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.router_logits import RouterLogits, Rule
from moex.sim.replay import replay
from moex.trace.format import read_trace, write_trace

pytestmark = pytest.mark.filterwarnings("ignore")  # reference kernels of rarer layers warn

RULES = {
    "qwen2_moe": Rule("softmax", "", False),
    "deepseek_v2": Rule("softmax", "one", False),
    "deepseek_v3": Rule("sigmoid", "two", True, 2.5),
    "gpt_oss": Rule("softmax", "", True),
    "glm4_moe": Rule("sigmoid", "", True),
    "ernie4_5_moe": Rule("softmax", "", True),
    "dots1": Rule("sigmoid", "", False),
    "minimax_m2": Rule("sigmoid", "", True),
    "lfm2_moe": Rule("sigmoid", "", True),
    "nemotron_h": Rule("sigmoid", "", True),
}


@pytest.mark.parametrize("family", RULES)
def test_the_rule_of_a_family_is_found(family):
    lookahead = Lookahead([layer.router for layer in moe_layers(random_family(family))], 64, 3)
    assert RouterLogits(lookahead, 64, family).rule == RULES[family]
    assert family in FAMILIES


@pytest.fixture(
    scope="module", params=["deepseek_v2", "deepseek_v3", "glm4_moe", "minimax_m2", "ernie4_5_moe"]
)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    random_family(request.param).save_pretrained(folder)
    return load_model(str(folder))


def live(loaded, routing):
    """Logits, plans, and the model after the run; few slots, so that much is absent."""
    plans: list = []
    memory = Memory(loaded.geometry.top_k + 1)
    setup = Setup(LRU(), memory, Gate(), routing=routing)
    offloaded = offload(loaded, setup, on_plan=plans.append)
    with offloaded as model:
        logits = both(model, 3)
        offloaded.finish()
    return logits, plans, offloaded, setup


def test_a_neutral_value_changes_neither_logits_nor_plans(loaded):
    expected, plans, _, _ = live(loaded, None)
    for routing in (CachePrior(0.0), MaxRank(1), RandomSwap(0.0), FixedK(loaded.geometry.top_k)):
        logits, ours, offloaded, _ = live(loaded, routing)
        assert all(map(torch.equal, logits, expected)), routing
        assert ours == plans, routing
        assert offloaded.journal.swaps.swapped == 0


@pytest.mark.parametrize("routing", [CachePrior(0.5), MaxRank(9), RandomSwap(0.3)], ids=repr)
def test_a_replay_chooses_as_the_run_did_within_the_groups(loaded, tmp_path, routing):
    _, plans, offloaded, setup = live(loaded, routing)
    trace = read_trace(write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet"))
    replayed: list = []
    decisions = setup.decisions("ram", offloaded.link.overlaps)
    report = replay(decisions, trace, on_plan=replayed.append)
    assert replayed == plans
    assert not report.off_policy
    assert report.swap_rate == offloaded.journal.swaps.rates["swap_rate"] > 0
    for rows in trace.router:
        assert np.take_along_axis(rows.logits, rows.final, 1).min() > EXCLUDED
        kept = rows.final == rows.index
        assert (np.sort(rows.index[~kept.all(1)]) != np.sort(rows.final[~kept.all(1)])).any(1).all()


def test_weights_are_the_scores_without_the_bias(loaded):
    offloaded = live(loaded, RandomSwap(0.5, keep=0))[2]
    source, rule = offloaded.rerouting.logits, offloaded.rerouting.logits.rule
    logits = torch.randn(5, loaded.geometry.experts, generator=torch.Generator().manual_seed(1))
    final = torch.tensor([[3, 1, 0, 2][: loaded.geometry.top_k]] * 5)
    own = torch.full(final.shape, 9.0)
    scores = logits.sigmoid() if rule.base == "sigmoid" else logits.softmax(-1)
    expected = scores.gather(1, final)
    if rule.normalized:
        expected = expected / expected.sum(1, keepdim=True)
    found = source.weights(logits, final.flip(1), own, final)
    assert torch.allclose(found, expected * rule.scale, atol=1e-6)
    assert torch.equal(source.weights(logits, final, own, final), own)


@pytest.mark.parametrize("routing", [Cumulative(), Substitute()], ids=repr)
def test_what_compares_probabilities_is_refused_in_one_line(loaded, routing):
    with pytest.raises(ValueError, match=r"^routing=\w+: compares prob[^\n]* try routing=[^\n]*$"):
        live(loaded, routing)
    _, _, offloaded, setup = live(loaded, CachePrior(0.1))
    decisions = Setup(LRU(), setup.memory, routing=routing).decisions("ram")
    with pytest.raises(ValueError, match="compares probabilities"):
        replay(decisions, offloaded.recorder.trace({}))
