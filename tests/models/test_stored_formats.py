"""Experts in the bytes of a packed checkpoint: equal to the file, and to its decoded weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small_models import random_family
from test_exactness import run
from test_families import as_fp8, as_mxfp4, stock, write_quantization
from transformers import FineGrainedFP8Config, Mxfp4Config

from moex.cache.lru import LRU
from moex.models import checkpoint, memory_needs
from moex.quant.checkpoint import Checkpoint
from moex.quant.formats.fp8 import FP8
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.report import Report
from moex.store.slots import paged
from moex.types import Expert

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers says that it dequantizes


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt_oss")
    torch.manual_seed(3)
    random_family("gpt_oss").save_pretrained(folder)
    write_quantization(folder, as_mxfp4(folder))
    return folder


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepseek")
    random_family("deepseek_v3").save_pretrained(folder)
    write_quantization(folder, as_fp8(folder))
    return folder


def load(folder, tmp_path, store="disk", **given):
    return load_model(
        str(folder), store=store, cache_dir=tmp_path / "cache", quant=Checkpoint(), **given
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mxfp4_as_it_is_computes_as_the_decoded_model_does(gpt_oss, dtype, tmp_path):
    theirs = stock(gpt_oss, dtype, quantization_config=Mxfp4Config(dequantize=True))
    expected = run(theirs, seed=3)
    for store in ("disk", "ram"):
        loaded = load(gpt_oss, tmp_path, store, dtype=str(dtype).removeprefix("torch."))
        with offload(loaded, Setup(LRU(), Memory(4))) as model:
            assert all(map(torch.equal, run(model, seed=3), expected))
        loaded.store.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_as_it_is_computes_as_the_decoded_model_does(deepseek, dtype, tmp_path):
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float32:
        settings = FineGrainedFP8Config(weight_block_size=(16, 16), dequantize=True)
        expected = run(stock(deepseek, dtype, quantization_config=settings), seed=3)
    else:  # transformers decodes attention to float32 then, and fails
        with offload(load_model(str(deepseek), name), Setup(LRU())) as model:
            expected = run(model, seed=3)
    loaded = load(deepseek, tmp_path, dtype=name)
    with offload(loaded, Setup(LRU(), Memory(4))) as model:
        assert all(map(torch.equal, run(model, seed=3), expected))
    files, record = load_file(deepseek / "model.safetensors"), paged(loaded.layout.bytes)
    loaded.store.read(Expert(1, 3), record)
    for name, view in loaded.layout.views(record).items():
        _, matrix, part = name.split(".")
        suffix = {"weight": "weight", "scale": "weight_scale_inv"}[part]
        theirs = files[f"model.layers.2.mlp.experts.3.{matrix}.{suffix}"]
        assert view.contiguous().view(torch.uint8).equal(theirs.view(torch.uint8))
    loaded.store.close()


def test_fp8_without_blocks_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"weight_block_size=None.*; try quant=none, which"):
        FP8({"weight_block_size": None})


def test_a_record_is_the_file_s_own_bytes(gpt_oss, tmp_path):
    loaded = load(gpt_oss, tmp_path)
    files = load_file(gpt_oss / "model.safetensors")
    record = paged(loaded.layout.bytes)
    for expert in (Expert(0, 0), Expert(2, 5)):
        loaded.store.read(expert, record)
        start, size = f"model.layers.{expert.layer}.mlp.experts", 0
        for name, view in loaded.layout.views(record).items():
            weight, *rest = name.split(".")
            key = f"{start}.{weight}" + (f"_{rest[-1]}" if rest else "")
            assert torch.equal(view, files[key][expert.index])
            size += files[key][expert.index].nbytes
        assert sum(part.bytes for part in loaded.layout.parts) == size
    loaded.store.close()


def test_the_row_says_what_the_checkpoint_s_bits_are(gpt_oss, tmp_path):
    loaded, report = load(gpt_oss, tmp_path), Report()
    loaded.describe(report)
    loaded.store.close()
    assert report.lossy == []
    assert report.kernel == "reference"
    weights = 3 * 64 * 96
    assert report.bits_per_weight == 8 * loaded.geometry.expert_bytes / weights
    assert 8 * loaded.packing.quantizers["down_proj"].nbytes((64, 96)) == 4.25 * 64 * 96


def test_sizes_are_known_before_a_weight_is_read(gpt_oss, tmp_path):
    loaded = load(gpt_oss, tmp_path)
    loaded.store.close()
    geometry, skeleton = memory_needs.sizes(checkpoint.build(gpt_oss), Checkpoint())
    assert geometry == loaded.geometry
    assert skeleton == memory_needs.skeleton_bytes(loaded.model)


def test_plain_numbers_are_refused_in_one_line(mixtral):
    with pytest.raises(ValueError, match=r"stored as plain numbers; .* try quant=none"):
        load_model(str(mixtral), quant=Checkpoint())


def test_packed_experts_that_are_missing_are_refused_in_one_line(gpt_oss, tmp_path):
    from safetensors.torch import save_file

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((gpt_oss / name).read_bytes())
    files = load_file(tmp_path / "model.safetensors")
    del files["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(files, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .* first model.layers.1.mlp.experts"):
        load(tmp_path, tmp_path)
