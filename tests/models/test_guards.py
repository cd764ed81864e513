"""Gradients, autocast, copies, and the time after closing: right, or one line that helps."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from small_models import random_family

import moex
from moex.bench import baselines
from moex.cache.lru import LRU
from moex.cli.errors import one_line
from moex.hardware.profile import HardwareProfile
from moex.miss.host import Host
from moex.models import experts_interface
from moex.prefetch.gate import Gate
from moex.prefetch.gate_norm import GateNorm
from moex.quant.linear import QuantLinear
from moex.quant.rtn import RTN
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.sparsity.random import Random

SLOW = HardwareProfile("slow", link_bytes_per_s=3e8, link_latency_s=2e-5, chunk_bytes=8192)
EXACT = {
    "ram": {"store": "ram", "prefetch": Gate()},
    "disk": {"store": "disk", "prefetch": GateNorm()},
    "disk in chunks": {"store": "disk", "hardware": HardwareProfile(chunk_bytes=8192)},
    "emulated": {"store": "ram", "hardware": SLOW},
    "host": {"store": "ram", "miss": Host()},
}
LOSSY = {
    "quantized": {"store": "disk", "quant": RTN(4, 16)},
    "quantized on the host": {"store": "ram", "quant": RTN(3, 16), "miss": Host()},
    "neurons": {"store": "ram", "sparsity": Random(fraction=0.5, prefill="masked")},
    "quantized neurons": {"store": "disk", "sparsity": Random(), "quant": RTN(4, 16)},
}
EVERY = {**EXACT, **LOSSY}
PROMPT, TOKEN = torch.arange(2, 12)[None], torch.tensor([[7]])


def stock_of(folder, dtype="float32"):
    with baselines.stock(str(folder), dtype) as model:
        return model


def loaded(folder, **settings):
    return moex.load(str(folder), **{"slots": 3, **settings})


def passes(model):
    """Logits of a prompt and of a token after it."""
    out = model(PROMPT, use_cache=True)
    return [out.logits, model(TOKEN, past_key_values=out.past_key_values).logits]


def equal(ours, theirs):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def visit(tokens):
    """What the experts of a layer are called with."""
    draw = torch.Generator().manual_seed(tokens)
    index = torch.stack([torch.randperm(8, generator=draw)[:2] for _ in range(tokens)])
    return torch.randn(tokens, 64, generator=draw), index, torch.rand(tokens, 2, generator=draw)


@pytest.fixture(scope="module")
def stock(mixtral):
    return stock_of(mixtral)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("way", EVERY)
def test_a_gradient_through_experts_is_refused_and_the_advice_works(mixtral, way, tokens):
    hidden, index, weights = visit(tokens)
    with loaded(mixtral, **EVERY[way] | {"prefetch": None}) as model:
        experts = experts_interface.moe_layers(model)[0].experts
        expected = experts(hidden, index, weights)  # gradients are on, and nobody asks for one
        for wanted in (hidden, weights):
            wanted.requires_grad_()
            with pytest.raises(RuntimeError, match="a gradient would flow") as caught:
                experts(hidden, index, weights)
            assert "try `with torch.no_grad():` around the call" in one_line(caught.value)
            for off in (torch.no_grad, torch.inference_mode):
                with off():
                    assert torch.equal(experts(hidden, index, weights), expected)
            wanted.requires_grad_(False)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_the_gradient_of_an_embedded_prompt_is_refused(mixtral, stock, store):
    with loaded(mixtral, store=store) as model:
        embedded = model.get_input_embeddings()(PROMPT).requires_grad_()
        with pytest.raises(RuntimeError, match="a gradient would flow"):
            model(inputs_embeds=embedded)
        with torch.no_grad():
            assert torch.equal(model(inputs_embeds=embedded).logits, stock(PROMPT).logits)


def test_a_gradient_that_passes_no_expert_is_stocks(mixtral, stock):
    found = []
    with loaded(mixtral) as model:
        for each in (model, stock):
            each.lm_head.weight.requires_grad_()
            logits = each(PROMPT).logits
            found += torch.autograd.grad(logits.square().sum(), each.lm_head.weight)
            each.lm_head.weight.requires_grad_(False)
    assert torch.equal(*found)


@pytest.mark.parametrize("way", EVERY)
def test_inference_mode_while_loading_or_before_changes_nothing(mixtral, way):
    with torch.no_grad(), loaded(mixtral, **EVERY[way]) as model:
        expected = passes(model)
    with torch.inference_mode():
        offloaded = loaded(mixtral, **EVERY[way])
    with offloaded as model:
        for mode in (torch.inference_mode, torch.enable_grad, torch.inference_mode, torch.no_grad):
            with mode():
                assert equal(passes(model), expected)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", EXACT)
def test_logits_under_autocast_are_bit_equal_to_stocks(mixtral, way, dtype, kind):
    theirs = stock_of(mixtral, dtype)
    with torch.no_grad(), loaded(mixtral, dtype=dtype, **EXACT[way]) as model:
        with torch.autocast("cpu", kind):
            assert equal(passes(model), passes(theirs))
        assert equal(passes(model), passes(theirs))


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v3", "hunyuan_v1_moe", "nemotron_h"])
@pytest.mark.filterwarnings("ignore")  # reference kernels of rarer layers warn
def test_a_family_under_autocast_is_bit_equal_to_stock(family, tmp_path):
    random_family(family).save_pretrained(tmp_path)
    theirs = stock_of(tmp_path)
    offloaded = loaded(tmp_path, slots=4, cache_dir=tmp_path / "cache")
    with offloaded as model, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert equal(passes(model), passes(theirs))


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("way", LOSSY)
def test_autocast_does_not_change_what_lossy_experts_compute(mixtral, way, tokens):
    with torch.no_grad(), loaded(mixtral, **LOSSY[way]) as model:
        experts, given = experts_interface.moe_layers(model)[0].experts, visit(tokens)
        expected = experts(*given)
        with torch.autocast("cpu", torch.bfloat16):
            assert equal([experts(*given)], [expected])
            assert all(logits.dtype == torch.bfloat16 for logits in passes(model))


def test_a_packed_linear_layer_under_autocast_gives_its_type():
    weight, quantizer = torch.randn(32, 64), RTN(4, 16)
    layer = QuantLinear(quantizer, quantizer.pack(weight), torch.ones(32), torch.float32)
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.float16):
        assert equal([layer(x), layer(x.half())], [layer_of(layer, x), layer_of(layer, x.half())])


def layer_of(layer, x):
    with torch.autocast("cpu", enabled=False):
        return layer(x.float()).half()


@pytest.mark.parametrize("way", ["ram", "disk", "emulated", "quantized", "neurons"])
@pytest.mark.parametrize("twin", [copy.deepcopy, pickle.dumps], ids=["copied", "pickled"])
def test_a_copy_is_refused_and_the_model_goes_on(mixtral, way, twin):
    offloaded = loaded(mixtral, **EVERY[way])
    with torch.no_grad(), offloaded as model:
        expected = passes(model)
        for original in (
            model,
            model.model,
            experts_interface.moe_layers(model)[1].experts,
            offloaded,
        ):
            with pytest.raises(RuntimeError, match="cannot be copied or pickled") as caught:
                twin(original)
            assert "load it anew instead: `with moex.load(" in one_line(caught.value)
        assert equal(passes(model), expected)
        with loaded(mixtral, **EVERY[way]) as another:  # as the line says
            assert equal(passes(another), expected)
    with pytest.raises(RuntimeError, match="cannot be copied or pickled"):
        twin(offloaded)


@pytest.mark.parametrize("way", EVERY)
def test_a_model_that_was_closed_or_not_entered_says_so(mixtral, stock, way):
    offloaded = loaded(mixtral, **EVERY[way])
    with pytest.raises(RuntimeError, match="inside its `with` block, which was not entered"):
        offloaded.model(PROMPT)
    with offloaded as model:
        model(PROMPT)
    for call in (model, lambda tokens: model.generate(tokens, max_new_tokens=2)):
        with pytest.raises(RuntimeError, match="was left and so closed; load it anew") as caught:
            call(PROMPT)
        assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="was given back; load it anew"):
        offloaded.__enter__()
    assert len(pickle.dumps(copy.deepcopy(model))) > 0  # it owns nothing any more


def test_parts_of_a_closed_model_are_offloaded_again(mixtral, stock):
    loaded = load_model(str(mixtral))
    for slots in (2, 5):
        with offload(loaded, Setup(LRU(), Memory(slots))) as model:
            assert torch.equal(model(PROMPT).logits, stock(PROMPT).logits)
        with pytest.raises(RuntimeError, match="was left and so closed"):
            model(PROMPT)


def test_a_model_that_has_its_experts_is_stock_after_closing(mixtral, stock):
    whole = stock_of(mixtral)
    loaded = replace(
        load_model(str(mixtral)), model=whole, layers=experts_interface.moe_layers(whole)
    )
    with offload(loaded, Setup(LRU(), Memory(2))) as model:
        assert torch.equal(model(PROMPT).logits, stock(PROMPT).logits)
    assert torch.equal(model(PROMPT).logits, stock(PROMPT).logits)
    embedded = whole.get_input_embeddings()(PROMPT).requires_grad_()
    assert torch.autograd.grad(whole(inputs_embeds=embedded).logits.sum(), embedded)[0].any()
