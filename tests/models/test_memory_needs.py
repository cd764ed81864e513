"""What is planned from a configuration is what a loaded model really takes."""

from __future__ import annotations

import pytest
import torch
import yaml
from small_models import random_family
from test_configs import CONF

from moex.bench.prompts import Prompts
from moex.bench.setup import prepare
from moex.cache.belady import Belady
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.models import checkpoint, experts_interface, hub, memory_needs
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.store.layout import Planes

KNOWN = {  # MB of an expert at 4.5 bits, GB of 4.5-bit experts and visits a token
    "mixtral_8x7b": (99.1, 25.4, 64),
    "mixtral_8x7b_instruct": (99.1, 25.4, 64),
    "qwen3_30b_a3b": (2.7, 16.3, 384),
    "olmoe": (3.5, 3.6, 128),
    "deepseek_v2_lite": (4.9, 8.1, 156),
    "gpt_oss_20b": (14.0, 10.7, 96),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"])
def test_skeleton_and_kv_cache_are_what_they_are_planned_to_be(family, tmp_path):
    random_family(family).save_pretrained(tmp_path)
    planned = checkpoint.build(tmp_path)
    loaded = load_model(str(tmp_path))
    buffers = sum(buffer.nbytes for buffer in loaded.model.buffers())
    assert memory_needs.skeleton_bytes(planned) == loaded.skeleton_bytes + buffers
    with offload(loaded, Setup(LRU())) as model, torch.inference_mode():
        cache = model(torch.arange(2, 13)[None], use_cache=True).past_key_values
    kept = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    real = sum(tensor.nbytes for tensor in kept)
    assert real == 11 * memory_needs.kv_bytes_per_token(planned.config.get_text_config(), 4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_reads_layers_and_head_and_looks_its_embedding_up(tied):
    config = yaml.safe_load((CONF / "model" / "olmoe.yaml").read_text())
    shape = config["architecture"] | {"tie_word_embeddings": tied}
    model = checkpoint.build_from(hub.configuration(config["name"], shape))
    read = memory_needs.bytes_read(model, 16, memory_needs.skeleton_bytes(model))
    assert read["pass_bytes"] == 50304 * 2048 * 2
    attention, router = 4 * 2048 * 2048 * 2, 64 * 2048 * 2
    assert read["layer_bytes"] == pytest.approx(attention + router, rel=0.002)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_the_sizes_that_others_name(name):
    config = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    model = checkpoint.build_from(hub.configuration(config["name"], config["architecture"]))
    layers = experts_interface.moe_layers(model)
    geometry = experts_interface.geometry(model, layers, Planes(layers[0].tensors).bytes)
    megabytes, pool, visits = KNOWN[name]
    size = geometry.expert_bytes * 4.5 / 16
    assert size / 1e6 == pytest.approx(megabytes, abs=0.06)
    assert geometry.layers * geometry.experts * size / 1e9 == pytest.approx(pool, abs=0.06)
    assert geometry.layers * geometry.top_k == visits
    if name == "mixtral_8x7b":
        assert memory_needs.skeleton_bytes(model) == pytest.approx(3.2e9, rel=0.01)
        text = model.config.get_text_config()
        assert memory_needs.kv_bytes_per_token(text, 2) == 131072


def test_everything_on_the_device_is_counted(mixtral, monkeypatch):
    monkeypatch.setattr(memory_needs, "resident_bytes", lambda: 10**9)
    loaded = load_model(str(mixtral))
    lengths = (20, 12, 3)
    held = loaded.skeleton_bytes + sum(b.nbytes for b in loaded.model.buffers())
    held += sum(record.nbytes for record in loaded.store.records)
    wanted = memory_needs.needs(loaded.model, loaded.geometry, *lengths, process=10**9 - held)
    assert wanted.kv_cache == 3 * 32 * memory_needs.kv_bytes_per_token(loaded.model.config, 4)
    assert wanted.predictor == 4 * loaded.layers[0].router.weight.nbytes
    slots = 4 * 3 + 4
    enough = wanted.total + slots * loaded.layout.bytes
    offloaded = offload(loaded, Setup(LRU(), Memory(None, enough)), lengths=lengths)
    assert offloaded.cache.slots == 3
    assert offloaded.planned_bytes == enough
    offloaded.close()
    offloaded = offload(loaded, Setup(LRU(), Memory(None, enough - 1)), lengths=lengths)
    assert offloaded.cache.slots == 2
    offloaded.close()
    with pytest.raises(ValueError, match=r"at least .*kv_cache .*predictor .*process .*try memory"):
        offload(loaded, Setup(LRU(), Memory(None, "1MB")), lengths=(1 << 20, 0, 1))


def test_a_process_counts_only_where_its_memory_is_the_device():
    profile = HardwareProfile("made up", link_bytes_per_s=1e9)
    assert memory_needs.process_bytes("cpu") >= memory_needs.LIBRARIES
    assert memory_needs.process_bytes("cpu", HardwareProfile()) >= memory_needs.LIBRARIES
    assert memory_needs.process_bytes("cpu", profile) == memory_needs.process_bytes("cuda") == 0
    assert memory_needs.process_bytes("cpu", held=10**15) == memory_needs.LIBRARIES


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_a_recording_pass_takes_no_slots_from_an_oracle(mixtral, tmp_path, monkeypatch, store):
    loaded = load_model(str(mixtral), store=store, cache_dir=tmp_path)
    most = loaded.geometry.layers * 3 + 2 * loaded.geometry.top_k
    enough = memory_needs.needs(
        loaded.model, loaded.geometry, 4, 2, process=loaded.process_bytes
    ).total
    memory = Memory(None, enough + most * loaded.layout.bytes)
    grown = memory_needs.resident_bytes() + (1 << 30)
    monkeypatch.setattr(memory_needs, "resident_bytes", lambda: grown)
    workload = Prompts(name="one", prompts=["x"], new_tokens=2)
    batches = [torch.arange(2, 6)[None]]
    slots = []
    for policy in (LRU(), Belady()):
        offloaded = prepare(loaded, batches, workload, Setup(policy, memory))
        slots.append(offloaded.cache.slots)
        offloaded.close()
    assert slots == [3, 3]
