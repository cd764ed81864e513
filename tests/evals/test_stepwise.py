"""Scores through the live cache, token by token; and what one pass may not score."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from moex.cache.lru import LRU
from moex.evals.bits import Window, window_nats
from moex.evals.dense import DenseLogits
from moex.evals.lm import evaluate
from moex.evals.stepwise import stepwise
from moex.miss.skip import Skip
from moex.routing.cache_prior import CachePrior
from moex.routing.fewer import Fewer
from moex.routing.fixed_k import FixedK
from moex.routing.mass import Mass
from moex.routing.random_swap import RandomSwap
from moex.routing.sensitivity import Sensitivity
from moex.runner.assemble import Memory, Setup, load_model, offload

TASKS = ["moex_swap", "moex_grammar", "moex_loss"]


@pytest.fixture(scope="module")
def loaded(checkpoints):
    return load_model(str(checkpoints["olmoe"]))


def scores(loaded, setup, steps, **given):
    """The rows and the score of every item."""
    items: dict = {}
    offloaded = offload(loaded, setup)
    with offloaded as model:
        if not steps:
            rows = evaluate(model, loaded.tokenizer(), TASKS, limit=3, items=items, **given)
        else:
            with stepwise(model, offloaded.empty):
                common = {"limit": 3, "items": items, "batch_size": 1}
                rows = evaluate(model, loaded.tokenizer(), TASKS, **common, **given)
    return rows, items


@pytest.mark.study
@pytest.mark.parametrize(
    "routing", [None, Fewer(0.9), Mass(0.4), FixedK(2), Sensitivity(0.2)], ids=repr
)
def test_state_free_methods_score_alike_in_one_pass_and_token_by_token(loaded, routing):
    setup = Setup(LRU(), Memory(5), routing=routing)
    (_, one), (_, steps) = (scores(loaded, setup, each) for each in (False, True))
    assert one.keys() == steps.keys() == {*TASKS}
    for task, metrics in one.items():
        for metric, ours in metrics.items():
            theirs = steps[task][metric]
            assert [origin for origin, _ in ours] == [origin for origin, _ in theirs]
            values = [[value for _, value in each] for each in (ours, theirs)]
            assert values[0] == pytest.approx(values[1], rel=1e-4), (task, metric)


def beside_dense(loaded, setup, texts=4):
    offloaded = offload(loaded, setup)
    with (
        offloaded as model,
        stepwise(model, offloaded.empty),
        closing(offload(loaded, Setup(LRU()))) as exact,
    ):
        rows = evaluate(
            model,
            loaded.tokenizer(),
            ["moex_loss"],
            limit=texts,
            batch_size=1,
            dense=DenseLogits(model, exact),
        )
    return {row["metric"]: row["value"] for row in rows}


@pytest.mark.study
def test_divergence_from_the_dense_model_is_zero_without_swaps_and_positive_with(loaded):
    neutral = beside_dense(loaded, Setup(LRU(), Memory(4), routing=CachePrior(0.0)))
    assert neutral["kl_per_token"] == neutral["nats_above_dense"] == 0.0
    for lossy in ({"routing": RandomSwap(0.5)}, {"miss": Skip(0.24)}):
        found = beside_dense(loaded, Setup(LRU(), Memory(4), **lossy))
        assert found["kl_per_token"] > 1e-6
        assert found["nats_above_dense"] != 0.0
        exact = found["nats_per_token"] - found["nats_above_dense"]
        assert exact == pytest.approx(neutral["nats_per_token"], rel=1e-9)


@pytest.mark.parametrize("lossy", [{"routing": CachePrior()}, {"miss": Skip(0.1)}], ids=str)
def test_one_pass_may_not_score_what_depends_on_residency(loaded, lossy):
    line = r"^model: its routing or its miss handler .*; try eval.stepwise=auto, in Python `.*`$"
    with offload(loaded, Setup(LRU(), **lossy)) as model:
        with pytest.raises(ValueError, match=line):
            evaluate(model, loaded.tokenizer(), ["moex_loss"], limit=1)
        with pytest.raises(ValueError, match=line):
            window_nats(model, [Window(0, [1, 2, 3], 1)])
        with stepwise(model):
            assert window_nats(model, [Window(0, [1, 2, 3], 1)])[0] > 0


def test_residency_counts_a_cold_text_differs_from_a_warm_one(loaded):
    ids = torch.arange(2, 20)[None]
    offloaded = offload(loaded, Setup(LRU(), Memory(6), routing=CachePrior(0.5)))
    with offloaded as model, torch.inference_mode():
        with stepwise(model, offloaded.empty):
            cold = [model(ids).logits for _ in range(2)]
        with stepwise(model):
            warm = model(ids).logits
    assert torch.equal(*cold)
    assert not torch.equal(cold[0], warm)


def test_generating_token_by_token_gives_the_same_text(loaded):
    prompt, begun = torch.arange(2, 12)[None], []
    with offload(loaded, Setup(LRU(), Memory(5))) as model:
        expected = model.generate(prompt, max_new_tokens=8, do_sample=False)
        with stepwise(model, lambda: begun.append(1)):
            assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), expected)
    assert begun == [1]
