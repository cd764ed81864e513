"""Trained predictors on the bundled model: better than the gate, exact, coarse to fine."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.predictors.nets import Lean, read_nets
from moex.predictors.trained import kind_of
from moex.prefetch.base import Observation, Prefetcher
from moex.prefetch.corm import Corm
from moex.prefetch.gate import Gate
from moex.prefetch.gate_norm import GateNorm
from moex.prefetch.gate_resid import GateResid
from moex.prefetch.history import History
from moex.prefetch.linear import Linear
from moex.prefetch.mlp import MLP
from moex.prefetch.recorded import Recorded
from moex.prefetch.scored import ScoredPrefetcher
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.sim.simulator import simulate
from moex.sparsity.corm import Corm as Selector
from moex.testing import check_prefetcher
from moex.types import DECODE, PREFILL, Access, Expert, Geometry

TINY = Path(__file__).parents[2] / "moex" / "assets" / "tiny"
SMALL = Geometry(layers=4, experts=6, top_k=2, hidden=8, intermediate=12, expert_bytes=100)
SENTENCE = "The old man had been a soldier, and he spoke of the war as of a journey."


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


@pytest.fixture(scope="module")
def selector(loaded):
    made = Selector()
    made.bind(loaded.geometry, loaded.folder)
    return made


def decode(loaded, prefetcher, slots=3, count=24):
    """Logits of decoding a sentence token by token, and the offloaded model."""
    ids = loaded.tokenizer()(SENTENCE * 3, return_tensors="pt")["input_ids"][:, : count + 4]
    offloaded, logits = offload(loaded, Setup(LRU(), Memory(slots), prefetcher)), []
    with offloaded as model, torch.inference_mode():
        out = model(ids[:, :4], use_cache=True)
        for slot in range(4, ids.shape[1]):
            logits.append(out.logits[:, -1])
            step = ids[:, slot : slot + 1]
            out = model(step, past_key_values=out.past_key_values, use_cache=True)
    offloaded.finish()
    offloaded.close()
    return torch.cat(logits), offloaded


@pytest.fixture(scope="module")
def plain(loaded):
    return decode(loaded, None)[0]


@pytest.mark.parametrize(
    "prefetcher",
    [
        MLP(),
        MLP(depth=3, width=3),
        Linear(depth=2),
        GateResid(),
        GateNorm(),
        Corm(MLP()),
        Corm(Gate()),
    ],
    ids=repr,
)
def test_a_trained_prefetcher_changes_no_logit_and_replays(loaded, plain, prefetcher):
    logits, run = decode(loaded, prefetcher)
    assert torch.equal(logits, plain)
    trace, cache = run.recorder.trace({}), ExpertCache(LRU(), loaded.geometry, 3)
    report = simulate(trace, cache, Recorded())
    assert report.prefetch_used == run.cache_stats.phases[DECODE].prefetched_hits > 0


def test_a_predictor_of_past_routing_predicts_alike_in_a_replay(loaded, plain):
    logits, run = decode(loaded, History(depth=2))
    assert torch.equal(logits, plain)
    trace, plans = run.recorder.trace({}), []
    given = str(TINY / "predictors" / "history.safetensors")
    cache = ExpertCache(LRU(), loaded.geometry, 3)
    simulate(trace, cache, History(depth=2, checkpoint=given), on_plan=plans.append)
    again = []
    simulate(trace, cache, Recorded(), on_plan=again.append)
    assert plans == again
    assert sum(len(plan.prefetched) for plan in plans) > 20


def test_the_bundled_networks_beat_the_gate(loaded):
    coverage = []
    for prefetcher in (Gate(), Linear(), MLP()):
        counts = decode(loaded, prefetcher)[1].cache_stats.phases[DECODE]
        coverage.append(counts.prefetched_hits / (counts.prefetched_hits + counts.demand_misses))
    assert min(coverage[1:]) > coverage[0] + 0.05


@pytest.mark.parametrize("made", [Linear, GateResid])
@pytest.mark.parametrize("depth", [1, 3])
def test_linear_predictors_score_as_they_were_trained(loaded, made, depth):
    draw, prefetcher = torch.Generator().manual_seed(3), made(depth=depth, width=8)
    prefetcher.bind(loaded.geometry, loaded.folder)
    prefetcher.reset(loaded.geometry, 0)
    assert prefetcher.device_bytes == sum(min(depth, ahead) for ahead in range(1, 6)) * 8 * 257 * 2
    for layer, net in enumerate(read_nets(kind_of(made), loaded.geometry, loaded.folder)):
        hidden = torch.randn(3, loaded.geometry.hidden, generator=draw)
        logits = net(hidden, None, None)[:, :depth]
        each = logits.sigmoid() if made is Linear else logits.softmax(-1)
        said = prefetcher.predict(Observation(Access(0, 4, layer, DECODE, (1, 5)), hidden=hidden))
        assert {p.expert.layer for p in said} == {layer + 1 + d for d in range(each.shape[1])}
        for prediction in said:
            ahead, index = prediction.expert.layer - layer - 1, prediction.expert.index
            assert prediction.score == pytest.approx(float(each[:, ahead, index].sum()), abs=0.05)
    last = Observation(Access(0, 4, 5, DECODE, (1, 5)), hidden=hidden)
    assert prefetcher.predict(last) == []


@pytest.mark.parametrize("made", [Linear, GateResid])
def test_linear_predictors_keep_the_contract(loaded, made):
    check_prefetcher(lambda: made(depth=2), loaded.geometry, loaded.folder)


@pytest.mark.parametrize("depth", [1, 3])
def test_lean_networks_score_as_the_trained_ones_do(loaded, depth):
    for net in read_nets("mlp", loaded.geometry, loaded.folder):
        draw = torch.Generator().manual_seed(3)
        hidden = torch.randn(5, loaded.geometry.hidden, generator=draw)
        chosen, past = torch.rand(5, 8, generator=draw), torch.rand(5, net.horizon, 8)
        wanted = net(hidden, chosen, past)[:, :depth].flatten(1)
        lean = Lean(net, depth)
        found = lean(hidden, torch.cat([chosen, past.flatten(1)], 1))
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
        assert lean.nbytes < sum(p.nbytes for p in net.parameters()) / 3.5


def test_what_the_checkpoint_claims_meets_the_bars(loaded, selector):
    from moex.predictors import trained

    rows = trained.read("corm", loaded.geometry, loaded.folder).about["metrics"]
    late = [row for row in rows if row["way"] == "late"]
    assert len(late) == 6
    assert min(row["neuron_recall"] for row in late) >= 0.80
    assert min(row["energy_recall"] for row in late) >= 0.95
    rows = trained.read("mlp", loaded.geometry, loaded.folder).about["metrics"]
    assert all(row["recall"] > row["gate_recall"] for row in rows if row["named"] == 2)
    rows = trained.read("linear", loaded.geometry, loaded.folder).about["metrics"]
    assert all(row["recall"] > row["gate_recall"] for row in rows if row["named"] == 2)
    files = list((TINY / "predictors").iterdir())
    assert len(files) == 5
    assert sum(path.stat().st_size for path in files) <= 8_000_000


def test_coarse_to_fine_keeps_the_contract(loaded, selector):
    check_prefetcher(lambda: Corm(MLP(width=3)), loaded.geometry, loaded.folder, selector)


def test_rows_are_what_the_selector_expects(loaded, selector):
    prefetcher = Corm(Gate(width=3))
    prefetcher.bind(loaded.geometry, loaded.folder, selector)
    prefetcher.reset(loaded.geometry, 0)
    hidden = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    access = Access(0, 4, 2, DECODE, (1, 5))
    seen = Observation(access, ((0.1, 0.0, 0.3, 0.0, 0.4, 0.0, 0.2, 0.0),), hidden)
    said = prefetcher.predict(seen)
    assert [p.expert for p in said] == [Expert(3, 4), Expert(3, 2), Expert(3, 6)]
    expected = selector.expect(hidden, 3, [4, 2, 6])[:, 0].numpy()
    for prediction, mask in zip(said, expected, strict=True):
        bits = np.unpackbits(np.frombuffer(prediction.rows, np.uint8), bitorder="little")
        assert bits.astype(bool).tolist() == mask.tolist()
        assert sum(bits) == 116
    whole = prefetcher.predict(seen._replace(access=access._replace(phase=PREFILL)))
    assert all(prediction.rows is None for prediction in whole)


def test_without_a_selector_whole_experts_are_predicted(loaded):
    prefetcher = Corm(Gate())
    prefetcher.bind(loaded.geometry, loaded.folder, None)
    prefetcher.reset(loaded.geometry, 0)
    seen = Observation(
        Access(0, 4, 2, DECODE, (1, 5)), ((0.4, 0.3) + (0.0,) * 6,), torch.ones(1, 256)
    )
    assert [p.rows for p in prefetcher.predict(seen)] == [None, None]


def test_neurons_are_guessed_one_layer_ahead_only():
    with pytest.raises(ValueError, match="one layer ahead"):
        Corm(Gate(depth=2))


def test_gate_norm_is_the_next_layers_own_view(loaded):
    """Where the layers between add nothing, it is what the next router says."""
    seen = []

    class Listener(Prefetcher):
        needs = frozenset({"lookahead_norm", "hidden"})

        def predict(self, observation):
            seen.append(observation)
            return []

    decode(loaded, Listener(), count=2)
    assert [len(o.lookahead_norm) for o in seen[:6]] == [3, 3, 3, 2, 1, 0]
    sums = [sum(row) for o in seen for row in o.lookahead_norm]
    tokens = [len(o.hidden) for o in seen for _ in o.lookahead_norm]
    assert sums == pytest.approx(tokens, rel=1e-3)
    assert all(o.lookahead_norm != o.lookahead for o in seen[6:11])
    weights = [block.post_attention_layernorm.weight for block in loaded.model.model.layers]
    routers = [layer.router.weight.float() for layer in loaded.layers]
    one = seen[6]
    # The residual's direction is the input divided by the norm's weight: RMS norms do no more.
    state = one.hidden.float() / weights[0].float()
    normed = state / state.square().mean(-1, keepdim=True).sqrt() * weights[1].float()
    expected = (normed @ routers[1].T).softmax(-1)[0]
    assert torch.allclose(torch.tensor(one.lookahead_norm[0]), expected, atol=0.02)


class Fixed(ScoredPrefetcher):
    """Scores that a test gives."""

    def predict(self, observation):
        return list(self.name(observation.access, observation.lookahead))


SCORES = (0.5, 0.0, 0.3, 0.1, 0.06, 0.04)


@pytest.mark.parametrize(
    ("fields", "phase", "named"),
    [
        ({}, DECODE, [0, 2]),
        ({"width": 4}, DECODE, [0, 2, 3, 4]),
        ({"mass": 0.5}, DECODE, [0]),
        ({"mass": 0.81}, DECODE, [0, 2, 3]),
        ({"mass": 1.0}, DECODE, [0, 2, 3, 4, 5]),
        ({"width": 4, "budget_bytes": 250}, DECODE, [0, 2]),
        ({"budget_bytes": 99}, DECODE, []),
        ({}, PREFILL, [0, 2, 3, 4, 5]),
        ({"budget_bytes": 300}, PREFILL, [0, 2, 3]),
    ],
)
def test_how_many_are_named(fields, phase, named):
    prefetcher = Fixed(**fields)
    prefetcher.reset(SMALL, 0)
    said = prefetcher.predict(Observation(Access(0, 0, 1, phase, (0,)), (SCORES, SCORES)))
    assert [p.expert for p in said] == [Expert(2, index) for index in named]
    assert all(one.score >= other.score for one, other in pairwise(said))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 4}, "depth=4"),
        ({"width": -1}, "width=-1"),
        ({"mass": 1.5}, r"mass=1\.5"),
        ({"mass": 0.5, "width": 2}, "expected one of them"),
        ({"budget_bytes": -1}, "budget_bytes=-1"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Gate(**fields)
