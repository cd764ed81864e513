"""GPTQ and compressed-tensors checkpoints: decoded, or experts in their own bytes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import random_family
from test_exactness import run
from test_families import stock, write_quantization

from moex.cache.lru import LRU
from moex.quant.checkpoint import Checkpoint
from moex.quant.formats.compressed_tensors import CompressedTensors
from moex.quant.formats.gptq import GPTQ
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.store.slots import paged
from moex.types import Expert

GROUP = 16
CT = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "weights": {
                "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                "group_size": GROUP,
            }
        }
    },
}  # fmt: skip


def words(codes):
    """Eight codes a word along the last dimension, the first in the lowest bits."""
    eight = codes.reshape(*codes.shape[:-1], -1, 8).long()
    packed = sum(eight[..., n] << 4 * n for n in range(8))
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()


def gptq(weight):
    """Random codes for a matrix [out, in]: the file's tensors, and the matrix that they are."""
    rows, columns = weight.shape
    codes = torch.randint(0, 16, (rows, columns))
    zeros = torch.randint(0, 15, (rows, columns // GROUP))
    scales = (torch.rand(rows, columns // GROUP) / 40).half()
    spread = torch.arange(columns) // GROUP
    decoded = (codes - zeros[:, spread] - 1) * scales[:, spread].float()
    parts = {
        "qweight": words(codes).t().contiguous(),
        "qzeros": words(zeros.t().contiguous()),
        "scales": scales.t().contiguous(),
        "g_idx": spread.int(),
    }
    return parts, decoded


def packed_ints(weight):
    rows, columns = weight.shape
    codes = torch.randint(0, 16, (rows, columns))
    scales = (torch.rand(rows, columns // GROUP) / 40).half()
    decoded = (codes - 8) * scales[:, torch.arange(columns) // GROUP].float()
    shape = torch.tensor([rows, columns])
    parts = {"weight_packed": words(codes), "weight_scale": scales, "weight_shape": shape}
    return parts, decoded


FORMATS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}),
    "compressed-tensors": (packed_ints, CT),
}


@pytest.fixture(scope="module", params=FORMATS)
def folders(request, tmp_path_factory):
    """A packed checkpoint, and the same one in plain numbers."""
    packed, plain = (tmp_path_factory.mktemp(name) for name in ("packed", "plain"))
    torch.manual_seed(5)
    random_family("qwen2_moe").save_pretrained(packed)
    pack, settings = FORMATS[request.param]
    coded, decoded = {}, {}
    for name, weight in load_file(packed / "model.safetensors").items():
        coded[name] = decoded[name] = weight
        if weight.dim() == 2 and ("experts." in name or "self_attn" in name):
            parts, decoded[name] = pack(weight)
            del coded[name]
            coded |= {name.removesuffix("weight") + part: each for part, each in parts.items()}
    shutil.copy(packed / "config.json", plain)
    save_file(coded, packed / "model.safetensors", {"format": "pt"})
    save_file(decoded, plain / "model.safetensors", {"format": "pt"})
    write_quantization(packed, settings)
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    return packed, plain


@pytest.mark.parametrize("quant", [None, Checkpoint])
def test_a_packed_checkpoint_computes_as_its_decoded_weights_do(folders, quant, tmp_path):
    packed, plain = folders
    expected = run(stock(plain), seed=3)
    loaded = load_model(
        str(packed), "float32", store="disk", cache_dir=tmp_path, quant=quant and quant()
    )
    with offload(loaded, Setup(LRU(), Memory(4))) as model:
        assert all(map(torch.equal, run(model, seed=3), expected))
    loaded.store.close()


def test_a_record_is_the_files_own_bytes(folders, tmp_path):
    packed, _ = folders
    loaded = load_model(str(packed), store="disk", cache_dir=tmp_path, quant=Checkpoint())
    files, record = load_file(packed / "model.safetensors"), paged(loaded.layout.bytes)
    loaded.store.read(Expert(2, 6), record)
    suffixes = loaded.packing.quantizers["down_proj"].pieces["down_proj"].suffixes
    for name, view in loaded.layout.views(record).items():
        _, matrix, part = name.split(".")
        assert torch.equal(view, files[f"model.layers.2.mlp.experts.6.{matrix}{suffixes[part]}"])
    loaded.store.close()


@pytest.mark.parametrize("given", [{"bits": 3}, {"desc_act": True}, {"dynamic": {"a": {}}}])
def test_gptq_that_is_not_decoded_is_refused_in_one_line(given):
    with pytest.raises(ValueError, match=r"expected 4 or 8 bits .*without act-order"):
        GPTQ({**FORMATS["gptq"][1], "dtype": torch.float16, **given})


@pytest.mark.parametrize(
    "given", [{"symmetric": False}, {"actorder": "group"}, {"num_bits": 3}, {"type": "float"}]
)
def test_compressed_tensors_that_are_not_decoded_are_refused_in_one_line(given):
    weights = {**CT["config_groups"]["group_0"]["weights"], **given}
    settings = {**CT, "config_groups": {"group_0": {"weights": weights}}, "dtype": torch.float16}
    with pytest.raises(ValueError, match=r"expected pack-quantized symmetric integers"):
        CompressedTensors(settings)


def test_integers_are_unpacked_as_compressed_tensors_does():
    helpers = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers",
        reason="the package compressed-tensors is not installed",
    )
    parts, decoded = packed_ints(torch.zeros(24, 64))
    theirs = helpers.unpack_from_int32(parts["weight_packed"], 4, torch.Size((24, 64)))
    settings = {**CT, "dtype": torch.float16}
    stored = {"packed": parts["weight_packed"], "scale": parts["weight_scale"]}
    found = CompressedTensors(settings).decode(stored, torch.float32)
    scale = parts["weight_scale"].float()[:, torch.arange(64) // GROUP]
    assert torch.equal(found, theirs * scale)
    assert torch.equal(found, decoded)
