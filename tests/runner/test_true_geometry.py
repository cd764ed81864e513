"""Random weights at a model's own sizes, and the recorded routing of another one replayed."""

from __future__ import annotations

import json
from shutil import copy

import pytest
import torch

from moex.api import read_trace
from moex.bench.prompts import Prompts
from moex.bench.rounds import run_offloaded
from moex.cache.lru import LRU
from moex.models.random_weights import DEVIATION
from moex.paths import trace_path
from moex.prefetch.gate import Gate
from moex.quant.rtn import RTN
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.routing_replay import RoutingReplay, read_routing
from moex.store.packing import MANIFEST, PROGRESS, layer_file
from moex.store.slots import paged
from moex.types import Expert

SHAPES = {
    "model_type": "mixtral",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    cache = tmp_path_factory.mktemp("packed")
    made = load_model("made-up", store="disk", cache_dir=cache, architecture=SHAPES)
    yield made
    made.store.close()


def test_every_expert_has_bytes_of_its_own(loaded):
    records = set()
    for layer in range(8):
        for index in range(8):
            out = paged(loaded.layout.bytes)
            loaded.store.read(Expert(layer, index), out)
            records.add(out.numpy().tobytes())
    assert len(records) == 64


def test_a_replayed_routing_is_the_traces_own(loaded):
    trace = read_trace(trace_path("tiny"))
    workload = Prompts(prompts=["hello world"], prompt_tokens=4, new_tokens=5, warmup=0, repeats=2)
    workload.routing = "tiny"
    batches = workload.batches(loaded.tokenizer(), "cpu")
    result = run_offloaded(loaded, batches, workload, Setup(LRU(), Memory(3), Gate()))
    row = result.report
    assert row.random_weights
    assert row.replayed_routing
    assert row.prefetch_used > 0
    told = [[a.experts for a in trace.accesses() if a.layer == layer] for layer in range(6)]
    lived = [a for a in result.round.trace.accesses() if a.phase == "decode"]
    assert len(lived) == 4 * 8
    for access in lived:  # layers 6 and 7 use the trace's first ones again
        assert access.experts == told[access.layer % 6][access.position]
    assert all(access.scores for access in lived)


def test_every_round_begins_at_the_traces_beginning(loaded):
    routing = read_routing("tiny", loaded.geometry)
    index, weights = torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2)
    first = routing.route(0, index, weights)[0]
    assert not torch.equal(routing.route(0, index, weights)[0], first)
    routing.reset()
    assert torch.equal(routing.route(0, index, weights)[0], first)
    assert len(routing.rows(0, index)) == 4
    assert sum(routing.rows(0, index)[0]) == pytest.approx(3, abs=1e-3)


def test_a_routing_of_other_experts_or_of_nothing_is_refused(loaded):
    trace = read_trace(trace_path("tiny"))
    with pytest.raises(ValueError, match="recorded on 8 experts, top-2, but the model has 16"):
        RoutingReplay(trace, loaded.geometry._replace(experts=16))
    with pytest.raises(FileNotFoundError, match=r"^workload\.routing=nope: no such file; expected"):
        read_routing("nope", loaded.geometry)


def test_quantized_experts_are_drawn_as_codes_and_resumed_byte_for_byte(tmp_path):
    shapes = {**SHAPES, "num_hidden_layers": 3, "intermediate_size": 128}
    given = {"store": "disk", "architecture": shapes, "quant": RTN(group_size=32)}
    whole = load_model("made-up", cache_dir=tmp_path / "whole", **given)
    packed = whole.store.folder
    assert len({crc for layer in _checksums(packed) for crc in layer}) == 24
    again = tmp_path / "cut" / packed.name  # as a killed packer leaves it: one layer is through
    again.mkdir(parents=True)
    copy(layer_file(packed, 1), layer_file(again, 1))
    (again / PROGRESS).write_text(json.dumps({1: _checksums(packed)[1]}))
    resumed = load_model("made-up", cache_dir=tmp_path / "cut", **given)
    assert resumed.store.folder == again
    assert _checksums(again) == _checksums(packed)
    resumed.store.verify()
    with offload(whole, Setup(LRU(), Memory(3))) as model, torch.inference_mode():
        logits = model(torch.arange(2, 9)[None]).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.01
    for made in (whole, resumed):
        made.store.close()


def test_drawn_weights_are_as_large_as_quantized_ones(tmp_path):
    shapes = {**SHAPES, "num_hidden_layers": 1, "intermediate_size": 128}
    quant = RTN(group_size=32)
    made = load_model("x", store="disk", cache_dir=tmp_path, architecture=shapes, quant=quant)
    record = paged(made.layout.bytes)
    made.store.read(Expert(0, 5), record)
    for name, packed in made.layout.weights(record).items():
        weight = packed.unpack(torch.float32)
        assert tuple(weight.shape) == made.layers[0].tensors[name][0]
        assert 0.5 < weight.std() / DEVIATION < 2
        assert weight.abs().max() < 10 * DEVIATION
    made.store.close()


def _checksums(folder):
    return json.loads((folder / MANIFEST).read_text())["checksums"]
