"""The trained selector: a pure function of the token, as large as it says, refused where wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moex.predictors import lowrank, trained
from moex.sparsity.corm import Corm
from moex.types import Geometry

SHAPE = Geometry(layers=3, experts=4, top_k=2, hidden=16, intermediate=20, expert_bytes=1920)

BUNDLED = Geometry(layers=6, experts=8, top_k=2, hidden=256, intermediate=384, expert_bytes=589_824)
TINY = Path(__file__).parents[2] / "moex" / "assets" / "tiny"


def filled(rank: int) -> tuple[torch.nn.ModuleList, torch.Tensor, torch.Tensor]:
    """Factors of random weights for states of unequal strength, and those weights."""
    draw = torch.Generator().manual_seed(2)
    layers = lowrank.layers(SHAPE, rank, 8)
    gate_up = torch.randn(3, 4, 40, 16, generator=draw) / 4
    norms = torch.rand(3, 4, 20, generator=draw) + 0.1
    for number, factors in enumerate(layers):
        factors.fill(torch.diag(torch.linspace(0.1, 3, 16)), gate_up[number], norms[number])
        factors.cuts.copy_(torch.linspace(1, 0, lowrank.GRID).expand(2, 4, -1))
        if factors.ahead is not None:
            torch.nn.init.normal_(factors.ahead.linear.weight, generator=draw)
    return layers, gate_up, norms


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.safetensors").write_bytes(b"weights")
    state = filled(12)[0].state_dict()
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    path = folder / "predictors" / "corm.safetensors"
    trained.write(path, "corm", tensors, SHAPE, folder, {"rank": 12, "width": 8})
    return folder


def bound(model, **fields):
    selector = Corm(**fields)
    selector.bind(SHAPE, model)
    return selector


def states(tokens, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(tokens, 16, generator=draw).to(dtype)


def test_full_rank_estimates_are_contributions_but_for_four_bits():
    layers, gate_up, norms = filled(16)
    hidden = states(9) * torch.linspace(0.1, 3, 16).sqrt()
    found = layers[1].estimate(layers[1].encode(hidden, False), [2, 0])
    gate, up = (hidden @ gate_up[1, [2, 0]].mT).chunk(2, -1)
    true = (torch.nn.functional.silu(gate) * up).abs() * norms[1, [2, 0], None]
    assert found.shape == (2, 9, 20)
    assert (found - true).norm() < 0.25 * true.norm()
    same = layers[1].dense()[[2, 0]] @ layers[1].code
    assert (same - gate_up[1, [2, 0]]).norm() < 0.25 * gate_up[1, [2, 0]].norm()


def test_the_rows_it_moves_are_four_bits_each():
    assert filled(12)[0][0].rows.shape == (4, 40, 6)
    assert filled(12)[0][0].rows.dtype == torch.uint8


@pytest.mark.parametrize("mode", ["late", "predicted"])
@pytest.mark.parametrize("rule", ["top", "quantile", "energy"])
def test_a_tokens_neurons_do_not_depend_on_its_company(model, mode, rule):
    selector = bound(model, mode=mode, rule=rule, fraction=0.4)
    hidden = states(7, torch.float64)
    for layer in range(3):
        together = selector.select(hidden, layer, [3, 1])
        assert together.shape == (2, 7, 20)
        assert together.dtype == torch.bool
        for token in range(7):
            for place, expert in enumerate((3, 1)):
                alone = selector.select(hidden[token : token + 1], layer, [expert])
                assert torch.equal(alone[0, 0], together[place, token])


@pytest.mark.parametrize("mode", ["late", "predicted"])
def test_nor_do_the_bundled_models(mode):
    """Kernels that compute many tokens at once in another way would show here."""
    selector = Corm(mode=mode)
    selector.bind(BUNDLED, TINY)
    hidden = torch.randn(700, 256, generator=torch.Generator().manual_seed(3)).bfloat16()
    for layer in (0, 3):
        together = selector.select(hidden, layer, [6, 1])
        for token in (0, 3, 350, 699):
            alone = selector.select(hidden[token : token + 1], layer, [6, 1])
            assert torch.equal(alone[:, 0], together[:, token])


def test_lean_factors_select_what_the_trained_ones_do():
    full = lowrank.layers(BUNDLED, 176, 256)
    full.load_state_dict(trained.read("corm", BUNDLED, TINY).tensors)
    selector = Corm()
    selector.bind(BUNDLED, TINY)
    hidden = torch.randn(64, 256, generator=torch.Generator().manual_seed(4))
    for early in (False, True):
        trained_ones = full[2].estimate(full[2].encode(hidden, early), [4, 0])
        lean_ones = selector.factors[2].estimate(selector.factors[2].encode(hidden, early), [4, 0])
        assert (lean_ones - trained_ones).norm() < 0.03 * trained_ones.norm()
    assert selector.device_bytes < 4.8e6


def test_what_was_expected_is_not_computed_again(model):
    selector, state = bound(model, mode="predicted"), states(1)
    selector.expect(state, 1, [0, 2])
    calls, layer = [], selector.factors[1]
    computed = layer.estimate
    layer.estimate = lambda codes, experts: calls.append(experts) or computed(codes, experts)
    again = selector.select(state.clone(), 1, [2, 3])
    assert calls == [[3]]
    assert torch.equal(again, bound(model, mode="predicted").select(state, 1, [2, 3]))
    state[0, 0] += 1.0  # in place: another state is another question
    fresh = bound(model, mode="predicted").select(state, 1, [2])
    assert torch.equal(selector.select(state, 1, [2]), fresh)
    assert calls == [[3], [2]]


def test_a_lower_rank_keeps_the_strongest_directions():
    layers, gate_up, norms = filled(16)
    hidden = states(64) * torch.linspace(0.1, 3, 16).sqrt()
    gate, up = (hidden @ gate_up[1, [2, 0]].mT).chunk(2, -1)
    true = (torch.nn.functional.silu(gate) * up).abs() * norms[1, [2, 0], None]
    apart = []
    for rank in (14, 8, 4):
        less = lowrank.truncate(layers[1], SHAPE, rank)
        assert less.code.shape == (rank, 16)
        found = less.estimate(less.encode(hidden, False), [2, 0])
        apart.append(float((found - true).norm() / true.norm()))
        direct = filled(rank)[0][1]  # factored to this rank at once
        best = direct.estimate(direct.encode(hidden, False), [2, 0])
        assert (found - true).norm() < 1.3 * (best - true).norm() + 0.05 * true.norm()
    assert apart == sorted(apart)


def test_a_lower_rank_takes_less_and_is_another_selector(model):
    # A kernel takes ranks by 32: the bundled ones show it.
    sizes = []
    for rank in (None, 96):
        selector = Corm(rank=rank)
        selector.bind(BUNDLED, TINY)
        sizes.append(selector.device_bytes)
    assert sizes[1] < 0.6 * sizes[0]
    assert bound(model, rank=8).identity == bound(model).identity + "-rank8"
    assert bound(model, rank=12).identity == bound(model).identity
    for rank in (0, 7, 14):
        with pytest.raises(ValueError, match=f"rank={rank}: expected an even number up to 12"):
            bound(model, rank=rank)
    with pytest.raises(ValueError, match="thresholds of rule=quantile"):
        Corm(rank=8, rule="quantile")


def test_top_takes_its_fraction_and_all_is_none(model):
    assert (bound(model).select(states(5), 0, [1]).sum(-1) == 6).all()
    assert bound(model, fraction=1).select(states(5), 0, [1]) is None
    assert bound(model, mode="exact").select(states(5), 0, [1]) is None


def test_quantiles_are_interpolated(model):
    coarse, between, fine = (
        bound(model, rule="quantile", fraction=fraction).select(states(64), 1, [0])
        for fraction in (0.9, 0.92, 0.95)
    )
    assert coarse.sum() <= between.sum() <= fine.sum()
    assert not (coarse & ~fine).any()


def test_late_and_predicted_look_at_different_states(model):
    late, predicted = bound(model), bound(model, mode="predicted")
    assert [predicted.ahead(layer) for layer in range(3)] == [0, 1, 1]
    assert torch.equal(late.select(states(6), 0, [0]), predicted.select(states(6), 0, [0]))
    prefetch = late.expect(states(6), 2, [0])
    assert torch.equal(prefetch, predicted.select(states(6), 2, [0]))
    assert not torch.equal(prefetch, late.select(states(6), 2, [0]))


def test_it_says_what_it_holds_and_what_it_is(model):
    selector = bound(model)
    tensors = {id(each): each for layer in selector.factors for each in layer.tensors()}
    assert selector.device_bytes == sum(each.nbytes for each in tensors.values())
    held = {
        (each.untyped_storage().data_ptr(), each.untyped_storage().nbytes())
        for each in tensors.values()
    }
    assert sum(size for _, size in held) == selector.device_bytes
    assert selector.identity == trained.read("corm", SHAPE, model).identity


def test_a_checkpoint_of_another_layer_count_is_refused(model):
    with pytest.raises(ValueError, match=r"sparsity\.checkpoint=.*layers=3; this one has layers=4"):
        Corm().bind(SHAPE._replace(layers=4), model)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.2])
def test_a_fraction_outside_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction}: expected a share"):
        Corm(fraction=fraction)
