"""Grades: what is equal is called so, what is not is said to be off, and where it begins."""

from __future__ import annotations

import pytest
import torch

from moex.bench import baselines
from moex.bench.equality import Equality, compare, observe
from moex.bench.prompts import Prompts
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload

EQUAL = Equality("bit-equal", 0.0, 0.0, None, None)
TEXTS = ["An iron bridge.", "The king sat down, and then", "It rained.", "Snow", "Why not?"]
WORKLOADS = [
    Prompts(prompts=TEXTS, prompt_tokens=9, new_tokens=6, batch_size=3),
    Prompts(prompts=TEXTS, prompt_tokens=None, new_tokens=5, limit=3, sampling="sample"),
    Prompts(prompts=TEXTS, prompt_tokens=4, new_tokens=6, batch_size=8, sampling="sample"),
]


@pytest.fixture(scope="module")
def stock(mixtral):
    with baselines.stock(str(mixtral)) as model:
        yield model


@pytest.fixture(scope="module")
def loaded(mixtral):
    return load_model(str(mixtral))


def graded(loaded, stock, workload, mine=None, **settings):
    batches = workload.batches(loaded.tokenizer(), "cpu")
    choose = workload.sampler(seed=2)
    expected = observe(stock, batches, workload.new_tokens, choose)
    if mine is not None:
        return compare(mine, batches, expected, choose)
    with offload(loaded, Setup(**settings)) as model:
        return compare(model, batches, expected, choose)


@pytest.mark.parametrize("workload", WORKLOADS, ids=["batch 3", "own lengths", "batch 5"])
@pytest.mark.parametrize(("policy", "slots"), [(LRU(), 2), (LFU(), 5), (Random(), 8)], ids=repr)
def test_offloaded_experts_are_bit_equal_in_batches_and_alone(
    loaded, stock, workload, policy, slots
):
    settings = {"policy": policy, "memory": Memory(slots, pool="global"), "prefetcher": Gate()}
    assert graded(loaded, stock, workload, **settings) == EQUAL


def test_batches_from_disk_are_bit_equal(mixtral, stock):
    loaded = load_model(str(mixtral), store="disk")
    memory = Memory(3, reader_threads=2)
    assert (
        graded(loaded, stock, WORKLOADS[0], policy=LRU(), memory=memory, prefetcher=Gate()) == EQUAL
    )
    loaded.store.close()


def test_a_wrong_weight_is_found_in_its_layer(mixtral, loaded, stock):
    with baselines.stock(str(mixtral)) as other:
        other.model.layers[2].self_attn.o_proj.weight.mul_(1.5)
    found = graded(loaded, stock, WORKLOADS[0], other)
    assert found.equality == "approximate"
    assert found.first_diverging_layer == 2
    assert found.first_diverging_token is not None
    assert 0 <= found.first_diverging_token < 6
    assert found.max_logit_diff > 0.001
    assert found.kl > 0


def test_a_hair_s_breadth_is_token_equal_but_not_bit_equal(mixtral, loaded, stock):
    with baselines.stock(str(mixtral)) as other:
        other.model.embed_tokens.weight.mul_(1 + 1e-6)
    found = graded(loaded, stock, WORKLOADS[0], other)
    assert found.equality == "token-equal"
    assert found.first_diverging_layer == -1
    assert found.first_diverging_token is None
    assert 0 < found.max_logit_diff < 1e-3


def test_the_divergence_is_stock_s_from_ours(loaded, stock):
    class Louder(torch.nn.Module):
        """Doubles stock's logits."""

        def forward(self, *given, **named):
            out = stock(*given, **named)
            out.logits = 2 * out.logits
            return out

    workload = Prompts(prompts=TEXTS[:1], prompt_tokens=5, new_tokens=2)
    found = graded(loaded, stock, workload, Louder())
    batch = workload.batches(loaded.tokenizer(), "cpu")[0]
    seen = observe(stock, [batch], 2, workload.sampler(0))[0]
    rows = torch.cat([done.logits for done in seen])
    expected = torch.nn.functional.kl_div(
        (2 * rows).log_softmax(-1), rows.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert found.kl == pytest.approx(float(expected), rel=1e-4)
    assert found.max_logit_diff == pytest.approx(float(rows.abs().max()))
    assert found.equality == "token-equal"
    assert found.first_diverging_layer is None


def test_what_memory_does_not_hold_is_offloaded_stock(mixtral, monkeypatch):
    with baselines.reference(str(mixtral)) as model:
        whole = observe(model, [torch.arange(2, 9)[None]], 3, WORKLOADS[0].sampler(0))
    monkeypatch.setattr(baselines, "fits", lambda *_: False)
    with baselines.reference(str(mixtral)) as model:
        assert any(parameter.is_meta for parameter in model.parameters())
        away = observe(model, [torch.arange(2, 9)[None]], 3, WORKLOADS[0].sampler(0))
    assert [done.hidden for done in away[0]] == [done.hidden for done in whole[0]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_not_graded(mixtral, loaded, stock, value):
    with baselines.stock(str(mixtral)) as other:
        other.lm_head.weight[7] = value
    with pytest.raises(ValueError, match=r"logits of moex hold nan .*try model.dtype=float32"):
        graded(loaded, stock, WORKLOADS[0], other)
    batches = WORKLOADS[0].batches(loaded.tokenizer(), "cpu")
    expected = observe(other, batches, 2, WORKLOADS[0].sampler(0))
    with pytest.raises(ValueError, match="logits of stock transformers hold nan or an infinity"):
        compare(other, batches, expected, WORKLOADS[0].sampler(0))
