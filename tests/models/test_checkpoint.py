"""Checkpoints are read whole or refused in one line."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from moex.bench import baselines
from moex.models import checkpoint, experts_interface
from moex.models.shards import Folder
from moex.runner.assemble import load_model
from moex.store.packing import Packer
from moex.store.slots import paged
from moex.types import Expert


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def test_skeleton_and_experts_are_the_stock_model_s_weights(checkpoints):
    for folder in checkpoints.values():
        stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        loaded = load_model(str(folder))
        mine = dict(loaded.model.named_parameters())
        for name, weight in stock.named_parameters():
            if not mine[name].is_meta:
                assert torch.equal(mine[name], weight), name
        for number, layer in enumerate(experts_interface.moe_layers(stock)):
            out = torch.empty(loaded.layout.bytes, dtype=torch.uint8)
            loaded.store.read(Expert(number, 5), out)
            for name, tensor in loaded.layout.views(out).items():
                assert torch.equal(tensor, getattr(layer.experts, name)[5])


def test_experts_stay_on_meta(mixtral):
    loaded = load_model(str(mixtral))
    experts = [p for layer in loaded.layers for p in layer.experts.parameters()]
    assert all(parameter.is_meta for parameter in experts)
    assert loaded.skeleton_bytes < 300_000


def test_a_dtype_is_obeyed(mixtral):
    loaded = load_model(str(mixtral), "bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.geometry.expert_bytes == 3 * 64 * 96 * 2


def test_an_unknown_dtype_is_refused(mixtral):
    with pytest.raises(ValueError, match=r"model.dtype=int3: expected one of auto"):
        load_model(str(mixtral), "int3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there(mixtral):
    for start in (load_model, baselines.stock, baselines.accelerate):
        refused = pytest.raises(ValueError, match=r"model\.device=cuda: .*try model\.device=cpu")
        with refused, start(str(mixtral), device="cuda"):
            pass


def test_a_folder_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        checkpoint.find(str(tmp_path))


def test_a_name_that_is_nowhere():
    with pytest.raises(FileNotFoundError, match=r"neither a local folder nor a model"):
        checkpoint.find("nobody/nothing-of-this-name")


def test_a_folder_without_weights(mixtral, tmp_path):
    folder = copy(mixtral, tmp_path)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no \*.safetensors file"):
        load_model(str(folder))


def test_a_missing_shard(mixtral, tmp_path):
    folder = copy(mixtral, tmp_path)
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00001.*which its index names"):
        load_model(str(folder))


def test_a_shard_cut_short(mixtral, tmp_path):
    folder = copy(mixtral, tmp_path)
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(str(folder))


def test_weights_that_an_index_forgot(mixtral, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy(mixtral, tmp_path)
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors.update(load_file(path))
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .* first model.norm.weight"):
        load_model(str(folder))


def test_a_model_without_experts(tmp_path):
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config.architectures = ["LlamaForCausalLM"]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no MoE layer"):
        load_model(str(tmp_path))


def test_experts_are_packed_once_until_the_weights_change(mixtral, tmp_path):
    folder, cache = copy(mixtral, tmp_path), tmp_path / "cache"
    ram = load_model(str(folder))
    for _ in range(2):
        disk = load_model(str(folder), store="disk", cache_dir=cache)
        out = paged(disk.layout.bytes)
        disk.store.read(Expert(3, 5), out)
        disk.store.close()
        assert torch.equal(out, ram.store.records[3][5])
        assert len(list(cache.iterdir())) == 1
        assert all(torch.equal(*pair) for pair in zip(weights(ram), weights(disk), strict=True))
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    data, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    data[len(data) // 17] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(time, time))
    load_model(str(folder), store="disk", cache_dir=cache).store.close()
    load_model(str(folder), "bfloat16", store="disk", cache_dir=cache).store.close()
    assert len(list(cache.iterdir())) == 3


def weights(loaded):
    return [p for p in loaded.model.parameters() if not p.is_meta]


def test_packing_a_checkpoint_goes_on_where_it_stopped(mixtral, tmp_path, monkeypatch):
    put, given = Packer.put, []

    def stop_later(packer, expert, tensors):
        given.append(expert)
        if len(given) == 20:
            raise KeyboardInterrupt
        put(packer, expert, tensors)

    monkeypatch.setattr(Packer, "put", stop_later)
    with pytest.raises(KeyboardInterrupt):
        load_model(str(mixtral), store="disk", cache_dir=tmp_path)
    store = load_model(str(mixtral), store="disk", cache_dir=tmp_path).store
    store.verify()
    store.close()
    assert given[20:] == [Expert(layer, index) for layer in (2, 3) for index in range(8)]
    out = paged(store.layout.bytes)
    whole = load_model(str(mixtral)).store
    again = load_model(str(mixtral), store="disk", cache_dir=tmp_path).store
    for expert in given:
        again.read(expert, out)
        assert torch.equal(out, whole.records[expert.layer][expert.index])
    again.close()


def test_an_unknown_store_is_refused(mixtral):
    with pytest.raises(ValueError, match=r"memory.store=tape: expected one of auto, disk, ram"):
        load_model(str(mixtral), store="tape")


def test_no_more_than_an_expert_is_in_memory_where_files_have_them_one_by_one(
    mixtral, tmp_path, monkeypatch
):
    put, read, seen = Packer.put, Folder.read, []

    def note_put(packer, expert, tensors):
        seen.append(None)
        put(packer, expert, tensors)

    def note_read(source, key):
        if ".experts." in key:
            seen.append(key)
        return read(source, key)

    monkeypatch.setattr(Packer, "put", note_put)
    monkeypatch.setattr(Folder, "read", note_read)
    load_model(str(mixtral), store="disk", cache_dir=tmp_path).store.close()
    assert len(seen) == 4 * 8 * (3 + 1)  # layers, experts, weights and a put
    for start in range(0, len(seen), 4):
        three, end = seen[start : start + 3], seen[start + 3]
        assert end is None
        assert len({key.partition(".w")[0] for key in three}) == 1
