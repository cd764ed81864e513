"""A quantized model: packed once, read from files, computed with in few bits."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import torch
from small_models import ARCHITECTURES, random_family
from transformers import AutoModelForCausalLM

from moex import api
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.models.checkpoint import find
from moex.quant.base import quantizes
from moex.quant.hqq import HQQ
from moex.quant.linear import QuantLinear
from moex.quant.mixed import Mixed
from moex.quant.rtn import RTN
from moex.runner.assemble import Setup, load_model, offload
from moex.runs import atomic
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = torch.tensor([[5, 17, 3, 99, 42, 7, 64, 8]])


def logits(folder, quant, slots=8, **settings) -> torch.Tensor:
    with api.load(str(folder), slots=slots, quant=quant, **settings) as model, torch.no_grad():
        return model(TOKENS).logits


def dequantized(folder: Path, quantizer) -> torch.Tensor:
    """What stock transformers computes with the weights that the packed ones stand for."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def through(weight: torch.Tensor) -> torch.Tensor:
        return quantizer.unpack(quantizer.pack(weight.detach()), weight.dtype)

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.weight.copy_(through(module.weight))
            for part in ("gate_up_proj", "down_proj"):
                if part in dict(module.named_parameters(recurse=False)):
                    for weight in getattr(module, part):
                        weight.copy_(through(weight))
        return model(TOKENS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bits", [4, 3])
def test_logits_are_those_of_the_dequantized_model(checkpoints, architecture, bits):
    folder, quantizer = checkpoints[architecture], RTN(bits, 16)
    ours, theirs = logits(folder, quantizer), dequantized(folder, quantizer)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, logits(folder, None), rtol=1e-3, atol=1e-4)


def test_cache_and_store_never_change_a_logit(mixtral):
    quantizer = Mixed(gate_up=RTN(2, 16), down=RTN(4, 32), attention=RTN(8, 32))
    whole = logits(mixtral, quantizer, store="ram")
    for slots in (2, 5):
        assert torch.equal(whole, logits(mixtral, quantizer, slots, store="disk"))


def test_files_hold_exactly_what_nbytes_says(mixtral, tmp_path):
    quantizer = RTN(3, 32)
    loaded = load_model(str(mixtral), store="disk", cache_dir=tmp_path, quant=quantizer)
    with closing(loaded.store):
        folder = next(path.parent for path in tmp_path.glob("*/manifest.json"))
        manifest = json.loads((folder / "manifest.json").read_text())
        nbytes = quantizer.nbytes((192, 64)) + quantizer.nbytes((64, 96))
        assert sum(part[-1] for part in manifest["parts"]) == nbytes
        assert loaded.geometry.expert_bytes == loaded.layout.bytes == manifest["record_bytes"]
        assert loaded.layout.bytes - nbytes < 4096 + 64 * len(manifest["parts"])
        sizes = {path.stat().st_size for path in folder.glob("*.records")}
        assert sizes == {loaded.geometry.experts * loaded.layout.bytes}
        assert loaded.bits_per_weight == 8 * loaded.layout.bytes / (192 * 64 + 64 * 96)
        assert manifest["source"]["quant"]["down_proj"]["bits"] == 3


def test_other_settings_are_packed_elsewhere(mixtral, tmp_path):
    for quantizer in (RTN(4, 32), RTN(4, 16), HQQ(4, 32), RTN(4, 32, kernel="reference"), None):
        options = {"store": "disk", "cache_dir": tmp_path, "quant": quantizer}
        load_model(str(mixtral), "bfloat16", **options).store.close()
    assert len(list(tmp_path.glob("*/manifest.json"))) == 5 - (
        RTN(4, 32).kernel_name((192, 64)) != "int4"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_row_names_the_kernel_that_suits_the_model_s_dtype(mixtral, tmp_path, dtype):
    loaded = load_model(str(mixtral), dtype, cache_dir=tmp_path, quant=RTN(4, 32))
    report = Report()
    loaded.describe(report)
    fast = RTN(4, 32).kernel_name((192, 64))
    assert report.kernel == ("reference" if dtype == "float32" else fast)


def test_attention_shrinks_and_the_row_says_so(mixtral):
    plain = load_model(str(mixtral))
    packed = load_model(str(mixtral), quant=Mixed(attention=RTN(4, 32)))
    linears = [m for m in packed.model.modules() if isinstance(m, QuantLinear)]
    assert len(linears) == 4 * 4
    saved = sum(m.weight.nbytes - m.nbytes for m in linears)
    assert packed.skeleton_bytes == plain.skeleton_bytes - saved
    assert not any(
        isinstance(m, torch.nn.Linear) and "attn" in n for n, m in packed.model.named_modules()
    )
    report = Report()
    packed.describe(report)
    assert (report.lossy, report.kernel, report.bits_per_weight) == (["quant"], None, 32.0)
    report = Report()
    plain.describe(report)
    assert (report.lossy, report.kernel, report.bits_per_weight) == ([], None, 32.0)


@pytest.mark.parametrize("family", ["hunyuan_v1_moe", "phimoe"])
def test_a_router_keeps_its_bits_whatever_its_name(family):
    architecture = random_family(family).config.to_dict()
    loaded = load_model(family, quant=Mixed(attention=RTN(4, 32)), architecture=architecture)
    packed = {name for name, m in loaded.model.named_modules() if isinstance(m, QuantLinear)}
    assert any("q_proj" in name for name in packed)
    parts = [part for layer in loaded.layers for part in layer.router.modules()]
    assert not any(isinstance(part, QuantLinear) for part in parts)


def test_a_scheme_that_quantizes_nothing_is_not_lossy(mixtral):
    report = Report()
    load_model(str(mixtral), quant=Mixed()).describe(report)
    assert report.lossy == []
    assert not quantizes(Mixed())
    for kind in ("gate_up", "down", "attention", "head"):
        assert quantizes(Mixed(**{kind: RTN(4, 32)}))


def test_packing_goes_on_where_it_stopped(mixtral, tmp_path):
    done = []

    class Stops(RTN):
        def pack(self, weight):
            done.append(weight.shape)
            if len(done) == 36:  # in the third layer
                raise KeyboardInterrupt
            return super().pack(weight)

    with pytest.raises(KeyboardInterrupt):
        load_model(str(mixtral), cache_dir=tmp_path, quant=Stops(4, 32))
    assert not list(tmp_path.glob("*/manifest.json"))
    assert not list(tmp_path.glob("*/*.part"))
    before = len(list(tmp_path.glob("*/*.records")))
    assert before == 2
    ours = logits(mixtral, Stops(4, 32), cache_dir=tmp_path)
    assert torch.equal(ours, logits(mixtral, RTN(4, 32)))
    count = len(done)
    logits(mixtral, Stops(4, 32), cache_dir=tmp_path)
    assert len(done) == count


def test_a_damaged_linear_is_packed_again(mixtral, tmp_path):
    ours = logits(mixtral, RTN(4, 32), cache_dir=tmp_path)
    path = sorted((tmp_path / "linears").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert torch.equal(ours, logits(mixtral, RTN(4, 32), cache_dir=tmp_path))
    assert path.read_bytes() != bytes(data)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(mixtral, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(RuntimeError, match=r"store: cannot pack .*No space left.*cache_dir="):
        load_model(str(mixtral), cache_dir=tmp_path, quant=Mixed(attention=RTN(4, 32)))
    assert not list((tmp_path / "linears").iterdir())


def test_groups_that_do_not_divide_are_named_before_anything_is_packed(mixtral, tmp_path):
    with pytest.raises(ValueError, match=r"group_size=64: does not divide the 96 inputs"):
        load_model(str(mixtral), cache_dir=tmp_path, quant=RTN(4, 64))
    with pytest.raises(ValueError, match=r"group_size=128: does not divide the 64 inputs"):
        load_model(str(mixtral), cache_dir=tmp_path, quant=Mixed(attention=RTN(4, 128)))
    assert not list(tmp_path.iterdir())


def test_a_tied_head_keeps_its_bits():
    with pytest.raises(ValueError, match=r"quant.head: .*quant.head=null"):
        load_model("tiny", quant=Mixed(head=RTN(4, 64)))


@pytest.mark.parametrize("quant", [RTN(8, 64, 16), RTN(4, 64), RTN(2, 16)])
def test_the_bundled_model_runs_in_few_bits(quant, tmp_path):
    loaded = load_model("tiny", quant=quant, cache_dir=tmp_path)
    offloaded = offload(loaded, Setup(LRU(), Memory(4)))
    ids = loaded.tokenizer()("The cat sat on the", return_tensors="pt")["input_ids"]
    with offloaded as model, torch.no_grad():
        found = model(ids).logits
    exact = AutoModelForCausalLM.from_pretrained(find("tiny"), dtype="auto").eval()
    with torch.no_grad():
        other = exact(ids).logits
    change = float((found - other).float().norm() / other.float().norm())
    assert 0 < change < {8: 0.03, 4: 0.2, 2: 0.6}[quant.bits]
