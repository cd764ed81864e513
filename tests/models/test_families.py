"""Every family of checkpoints, through files: bit-equal to stock grouped_mm on CPU in float32."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, random_family
from test_exactness import run
from transformers import AutoConfig, AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from moex.cache.lru import LRU
from moex.models import checkpoint, experts_interface
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload

pytestmark = pytest.mark.filterwarnings("ignore")  # reference kernels of rarer layers warn


def stock(folder, dtype=torch.float32, **options):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, experts_implementation="grouped_mm", **options
    ).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_bit_equal_and_its_router_is_understood(family, tmp_path):
    random_family(family).save_pretrained(tmp_path, max_shard_size="300KB")
    expected = run(stock(tmp_path), seed=3)
    loaded = load_model(str(tmp_path), store="disk", cache_dir=tmp_path / "cache")
    kind = FAMILIES[family][1]
    prefetcher = Gate(depth=2) if kind != "silent" else None
    offloaded = offload(loaded, Setup(LRU(), Memory(loaded.geometry.top_k), prefetcher))
    with offloaded as model:
        assert all(map(torch.equal, run(model, seed=3), expected))
    assert offloaded.lookahead.kind == kind
    trace = offloaded.recorder.trace({})
    assert (trace.scores is not None) == (kind != "silent")
    if kind == "asked":  # the row holds what the router chose, and nothing else
        for access in trace.accesses():
            assert {i for i, score in enumerate(access.scores) if score} == set(access.experts)
    loaded.store.close()


def test_a_router_that_cannot_be_asked_refuses_the_gate_in_one_line(tmp_path):
    random_family("qwen2_moe").save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    loaded.layers[1] = replace(loaded.layers[1], router=None)
    with pytest.raises(ValueError, match="cannot be called; try prefetch=markov"):
        offload(loaded, Setup(LRU(), prefetcher=Gate()))


def test_a_model_of_images_and_text_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"no text model of a aria checkpoint .* not supported"):
        checkpoint.build_from(AutoConfig.for_model("aria"))


@pytest.mark.parametrize("family", ["deepseek_v3", "hunyuan_v1_moe"])
def test_what_routers_have_in_float32_stays_so(family, tmp_path):
    """Biases; all of a router, which is given bfloat16."""
    random_family(family).save_pretrained(tmp_path)
    theirs = stock(tmp_path, torch.bfloat16)
    loaded = load_model(str(tmp_path), "bfloat16")
    with offload(loaded, Setup(LRU())) as model:
        assert all(map(torch.equal, run(model, seed=3), run(theirs, seed=3)))


def as_fp8(folder):
    """Store matrices of experts and attention in 8 bits with a scale a block of 16 x 16."""
    path, coded = folder / "model.safetensors", {}
    for name, weight in load_file(path).items():
        if weight.dim() != 2 or not ("experts." in name or "self_attn" in name):
            coded[name] = weight
            continue
        blocks = weight.reshape(weight.shape[0] // 16, 16, weight.shape[1] // 16, 16)
        scales = blocks.abs().amax((1, 3)) / 448
        scaled = (blocks / scales[:, None, :, None]).reshape(weight.shape)
        coded[name] = scaled.to(torch.float8_e4m3fn)
        coded[name + "_scale_inv"] = scales
    save_file(coded, path, metadata={"format": "pt"})
    return {"quant_method": "fp8", "weight_block_size": [16, 16]}


def as_mxfp4(folder):
    """Replace the experts by random 4-bit blocks of 32 with an exponent each."""
    path, coded = folder / "model.safetensors", {}
    for name, weight in load_file(path).items():
        if weight.dim() != 3:
            coded[name] = weight
            continue
        count, inner, outer = weight.shape
        shape = (count, outer, inner // 32)
        coded[name + "_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        coded[name + "_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
    save_file(coded, path, metadata={"format": "pt"})
    return {"quant_method": "mxfp4"}


@pytest.mark.parametrize(
    ("family", "store", "settings"),
    [
        ("deepseek_v3", as_fp8, FineGrainedFP8Config(weight_block_size=(16, 16), dequantize=True)),
        ("gpt_oss", as_mxfp4, Mxfp4Config(dequantize=True)),
    ],
)
def test_a_coded_checkpoint_is_decoded_as_transformers_does(family, store, settings, tmp_path):
    random_family(family).save_pretrained(tmp_path)
    write_quantization(tmp_path, store(tmp_path))
    expected = run(stock(tmp_path, quantization_config=settings), seed=3)
    with offload(load_model(str(tmp_path)), Setup(LRU())) as model:
        assert all(map(torch.equal, run(model, seed=3), expected))


def test_another_coding_is_refused_in_one_line(tmp_path):
    random_family("qwen2_moe").save_pretrained(tmp_path)
    write_quantization(tmp_path, {"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match="stored as bitsandbytes; expected plain numbers, or fp8,"):
        load_model(str(tmp_path))


def write_quantization(folder, settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


def test_experts_that_differ_from_layer_to_layer_are_refused_in_one_line():
    model = random_family("qwen2_moe")
    experts = model.model.layers[2].mlp.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj[..., :-1].clone())
    with pytest.raises(ValueError, match="experts of MoE layer 2 differ from those of layer 0"):
        experts_interface.moe_layers(model)
