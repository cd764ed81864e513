"""Training learns, is bounded, and goes on where it was stopped."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from moex.predictors import nets
from moex.train import experts, fit, neurons, quality
from moex.train.data import Corpus
from moex.train.recipe import Recipe
from moex.types import Geometry

SHAPE = Geometry(layers=3, experts=4, top_k=2, hidden=16, intermediate=12, expert_bytes=1152)
RECIPE = Recipe(
    tokens=3000, context=32, batch=4, step=64, width=24, rank=12, rate=1e-2, valid_tokens=1
)
WINDOWS = RECIPE.batch
TRAINERS = {
    "mlp": experts.ExpertTrainer,
    "linear": experts.LinearTrainer,
    "gate_resid": experts.ResidTrainer,
}


class Seen(NamedTuple):
    hidden: torch.Tensor
    chosen: torch.Tensor


class World:
    """Layers whose states follow from the one before, so that looking ahead can be learnt."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.words = torch.randn(50, SHAPE.hidden, generator=draw)
        self.mix = torch.randn(SHAPE.layers, SHAPE.hidden, SHAPE.hidden, generator=draw) / 4
        weights = torch.randn(SHAPE.layers, SHAPE.experts, SHAPE.hidden, generator=draw)
        self.routers = [(each, torch.linspace(-1, 1, SHAPE.experts)) for each in weights]
        shape = (SHAPE.layers, SHAPE.experts, 2 * SHAPE.intermediate, SHAPE.hidden)
        self.gate_up = torch.randn(shape, generator=draw) / 4
        self.norms = torch.rand(SHAPE.layers, SHAPE.experts, SHAPE.intermediate, generator=draw)

    def see(self, windows):
        hidden, seen = self.words[windows.flatten()], []
        for mix, (weight, bias) in zip(self.mix, self.routers, strict=True):
            hidden = hidden + torch.tanh(hidden @ mix) + 0.5
            seen.append(Seen(hidden, (hidden @ weight.T + bias).topk(SHAPE.top_k).indices))
        return seen

    def contributions(self, layer, expert, hidden):
        gate, up = (hidden @ self.gate_up[layer, expert].T).chunk(2, -1)
        return (torch.nn.functional.silu(gate) * up).abs() * self.norms[layer, expert]

    def trainer(self, kind):
        if kind in TRAINERS:
            return TRAINERS[kind](SHAPE, self.routers, RECIPE, 0)
        weights = lambda layer: (self.gate_up[layer], self.norms[layer])  # noqa: E731
        return neurons.NeuronTrainer(SHAPE, weights, RECIPE, 0)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def text():
    tokens = np.random.default_rng(0).integers(1, 50, 40_000).astype(np.uint16)
    return Corpus(tokens, np.arange(0, 40_000, 2000), RECIPE.context, "made up")


def held_out(world, text):
    return [
        world.see(torch.from_numpy(text.batch(number, WINDOWS, held_out=True)))
        for number in range(4)
    ]


@pytest.mark.parametrize(("kind", "gain"), [("mlp", 0.08), ("linear", 0.05), ("gate_resid", 0.02)])
def test_networks_begin_as_the_gate_and_end_better(kind, gain, world, text, tmp_path):
    trainer, batches = world.trainer(kind), [(s, WINDOWS) for s in held_out(world, text)]
    rows = quality.of_experts(trainer, world.routers, batches)
    assert all(row["recall"] == pytest.approx(row["gate_recall"]) for row in rows)
    fit.fit(trainer, text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    rows = quality.of_experts(trainer, world.routers, batches)
    best = [row for row in rows if row["named"] == SHAPE.top_k]
    assert [(row["layer"], row["horizon"]) for row in best] == [(1, 1), (2, 2), (2, 1)]
    assert np.mean([row["recall"] - row["gate_recall"] for row in best]) > gain
    assert all(row["all_named"] <= row["recall"] <= 1 for row in rows)


def test_the_bias_of_gate_resid_is_the_routers_view_of_the_mean_change(world, text, tmp_path):
    trainer = world.trainer("gate_resid")
    fit.fit(trainer, text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    count = -(-RECIPE.tokens // (RECIPE.batch * RECIPE.context))
    seen = [world.see(torch.from_numpy(text.batch(n, RECIPE.batch))) for n in range(count)]
    for layer, net in enumerate(trainer.modules):
        weights, biases = zip(*world.routers[layer + 1 : layer + 1 + net.horizon], strict=True)
        assert torch.equal(net.routers.weight, torch.cat(weights))
        found = net.routers.bias.detach().unflatten(0, (net.horizon, -1))
        for ahead, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
            change = torch.cat([each[layer + ahead].hidden - each[layer].hidden for each in seen])
            expected = bias + weight @ change.mean(0)
            assert torch.allclose(found[ahead - 1], expected, atol=1e-4)


def test_the_past_of_training_is_the_past_of_a_run(world):
    windows = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(3))
    seen = world.see(windows)
    chosen, past = world.trainer("mlp").examples(seen, 2)
    for layer in range(SHAPE.layers):
        kept = torch.zeros(2, SHAPE.experts)
        for place in range(9):
            rows = [place, 9 + place]
            assert torch.allclose(past[layer][rows], kept, atol=1e-6)
            kept = kept * nets.DECAY + (1 - nets.DECAY) * chosen[layer][rows]


def test_factors_find_most_of_what_counts_and_beat_habit(world, text, tmp_path):
    trainer, batches = world.trainer("corm"), held_out(world, text)
    fit.fit(trainer, text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    rows = quality.of_neurons(trainer.modules, world.contributions, batches)
    means = {
        way: np.mean([row["energy_recall"] for row in rows if row["way"] == way])
        for way in ("late", "predicted", "freq", "oracle")
    }
    assert means["oracle"] >= max(means.values())
    assert means["late"] > 0.9 * means["oracle"]
    assert means["predicted"] > 0.9 * means["late"]
    assert min(means["late"], means["predicted"]) > means["freq"] + 0.1
    assert not [row for row in rows if row["way"] == "predicted" and row["layer"] == 0]


def test_thresholds_cut_where_they_should(world, text, tmp_path):
    trainer = world.trainer("corm")
    fit.fit(trainer, text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    batches = held_out(world, text)
    quality.calibrate(trainer.modules, batches)
    own, _ = quality.states(batches, 1, 2)
    factors = trainer.modules[1]
    found = factors.estimate(factors.encode(own, False), [2])[0]
    shares = [(found >= cut).float().mean().item() for cut in factors.cuts[0, 2]]
    assert shares == pytest.approx([(place + 1) / 20 for place in range(20)], abs=0.02)


@pytest.mark.parametrize("kind", ["mlp", "gate_resid", "corm"])
def test_a_stopped_run_goes_on_to_the_same_end(world, text, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fit, "SAVE_EVERY", 4)
    whole = world.trainer(kind)
    fit.fit(whole, text, world.see, RECIPE, tmp_path / "whole.pt", "a run")
    calls = []

    def stops(windows):
        calls.append(windows)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return world.see(windows)

    with pytest.raises(KeyboardInterrupt):
        fit.fit(world.trainer(kind), text, stops, RECIPE, tmp_path / "state.pt", "a run")
    again, calls = world.trainer(kind), [None] * 11
    fit.fit(again, text, stops, RECIPE, tmp_path / "state.pt", "a run")
    assert len(calls) - 11 == 24 - 8
    ends = [trainer.modules.state_dict() for trainer in (whole, again)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_state_of_another_run_is_not_taken_up(world, text, tmp_path):
    fit.fit(world.trainer("mlp"), text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    trainer, calls = world.trainer("mlp"), []
    see = lambda windows: calls.append(1) or world.see(windows)  # noqa: E731
    fit.fit(trainer, text, see, RECIPE, tmp_path / "state.pt", "another")
    assert len(calls) == 24


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0}, r"train\.tokens=0"),
        ({"horizon": 4}, r"train\.horizon=4: expected 1 to 3"),
        ({"rank": 7}, r"train\.rank=7: expected an even number"),
        ({"rate": 0.0}, r"train\.rate=0"),
        ({"context": 2}, r"train\.context=2"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_a_rank_above_the_hidden_size_is_refused(world):
    with pytest.raises(ValueError, match=r"train\.rank=20: expected at most 16"):
        neurons.NeuronTrainer(SHAPE, lambda layer: None, Recipe(rank=20), 0)


def test_training_that_diverges_is_stopped_with_a_rate_to_try(world, text, tmp_path):
    trainer = world.trainer("mlp")
    for parameter in trainer.modules.parameters():
        torch.nn.init.constant_(parameter, 1e30)
    with pytest.raises(ValueError, match=r"^train.rate=0.01: the loss of batch 0 is .*; try train"):
        fit.fit(trainer, text, world.see, RECIPE, tmp_path / "state.pt", "a run")
    assert not list(tmp_path.iterdir())
