"""The seam: what it sees of a pass whatever the KV cache, and that nothing of it is compiled."""

from __future__ import annotations

import pytest
import torch
from small_models import random_family
from transformers import CompileConfig, DynamicCache, StaticCache

from moex.bench import baselines
from moex.cache.lru import LRU
from moex.runner.assemble import Memory, Setup, load_model, offload

pytestmark = pytest.mark.filterwarnings("ignore")  # reference kernels of rarer layers warn

PROMPT = torch.arange(2, 8)[None]
PADDED = torch.tensor([[0, 0, 0, *range(20, 28)], range(2, 13)])  # on the left
STEPS = torch.randint(2, 128, (14, 2, 1), generator=torch.Generator().manual_seed(1))


def stock_of(folder):
    with baselines.stock(str(folder), "float32") as model:
        return model


@pytest.fixture(scope="module")
def loaded(mixtral):
    return load_model(str(mixtral))


@pytest.fixture(scope="module")
def stock(mixtral):
    return stock_of(mixtral)


def offloaded(loaded, **settings):
    return offload(loaded, Setup(LRU(), Memory(loaded.geometry.top_k)), **settings)


def visits(model):
    trace = model.recorder.trace({}).accesses()
    return [(each.position, each.phase, each.layer, each.experts) for each in trace]


def positions(model):
    return [position for position, _, layer, _ in visits(model) if layer == 0]


@torch.inference_mode()
def continued(model, past):
    """Logits of a batch that is padded on the left, and of 14 tokens more."""
    mask, logits = (PADDED > 0).long(), []
    for tokens in (PADDED, *STEPS):
        if logits:
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        out = model(tokens, attention_mask=mask, past_key_values=past, use_cache=True)
        logits.append(out.logits)
    return logits


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss", "lfm2_moe", "nemotron_h"])
def test_a_static_cache_is_traced_as_a_dynamic_one(family, tmp_path):
    """Plain; sliding windows, which these 25 tokens leave, and whole ones; convolutions; states."""
    random_family(family).save_pretrained(tmp_path)
    loaded, traces = load_model(str(tmp_path)), []
    theirs = stock_of(tmp_path)
    for kind in (DynamicCache, lambda config: StaticCache(config, max_cache_len=32)):
        with (running := offloaded(loaded)) as model:
            logits = continued(model, kind(config=model.config))
        assert all(map(torch.equal, logits, continued(theirs, kind(config=theirs.config))))
        assert positions(running) == [0, *range(11, 25)]
        traces.append(visits(running))
    assert traces[0] == traces[1]


def generated(model, **settings):
    out = model.generate(
        PROMPT,
        max_new_tokens=4,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )
    return torch.stack(out.logits)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_generating_records_positions_whatever_the_cache(loaded, stock, kind):
    settings = {"cache_implementation": kind, "disable_compile": True}
    with (running := offloaded(loaded)) as model:
        assert torch.equal(generated(model, **settings), generated(stock, **settings))
    assert positions(running) == [0, 6, 7, 8]


def test_a_pass_follows_a_static_cache_under_inference_mode(loaded, stock):
    with offloaded(loaded) as model:
        with torch.inference_mode():
            generated(model, cache_implementation="static")
        assert torch.equal(model(PROMPT).logits, stock(PROMPT).logits)


def test_a_cache_that_is_given_by_position_is_seen(loaded):
    with (running := offloaded(loaded)) as model:
        past = model(PROMPT, use_cache=True).past_key_values
        model(PROMPT[:, :1], None, None, past)
    assert [(slot, phase) for slot, phase, layer, _ in visits(running) if layer == 0] == [
        (0, "prefill"),
        (6, "decode"),
    ]


@pytest.fixture
def dynamo():
    """What compiling keeps for the process goes with the test."""
    yield
    torch._dynamo.reset()


def never(*_):
    raise AssertionError("compiled")


def test_generating_with_a_static_cache_compiles_nothing(loaded, stock, dynamo):
    compiling = CompileConfig(backend=never)
    compiling._compile_all_devices = True  # as on a GPU, where transformers compiles unasked
    with (running := offloaded(loaded)) as model:
        logits = generated(model, cache_implementation="static", compile_config=compiling)
    expected = generated(stock, cache_implementation="static", disable_compile=True)
    assert torch.equal(logits, expected)
    assert positions(running) == [0, 6, 7, 8]


@pytest.mark.study
def test_a_compiled_model_runs_as_it_is(loaded, stock, dynamo):
    compiling = []
    seen = offloaded(loaded, on_plan=lambda _: compiling.append(torch.compiler.is_compiling()))
    with torch.no_grad(), seen as model:
        expected = stock(PROMPT).logits
        assert torch.equal(torch.compile(model, backend=never)(PROMPT).logits, expected)
        inner = torch.compile(model.model, backend="eager")  # without what is offloaded
        assert torch.equal(model.lm_head(inner(PROMPT).last_hidden_state), expected)
    assert compiling
    assert not any(compiling)
    assert "forward" not in vars(loaded.model)


def test_a_model_is_offloaded_once_at_a_time(loaded, stock):
    with offloaded(loaded) as model:
        with pytest.raises(RuntimeError, match="offloaded already; leave the `with` block"):
            offloaded(loaded).__enter__()
        assert torch.equal(model(PROMPT).logits, stock(PROMPT).logits)
