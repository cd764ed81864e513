"""Neurons in few bits: packed on the link and in their slots, unpacked to compute."""

from __future__ import annotations

import pytest
import torch
from test_runs import LINK, Told, Watched, decode, text
from test_runs import exact as exact
from transformers import AutoModelForCausalLM

from moex.cache.belady import Belady
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.prefetch.none import NoPrefetch
from moex.quant.base import Quantizer
from moex.quant.mixed import Mixed
from moex.quant.rows import Neurons, pack_rows, unpack_rows
from moex.quant.rtn import RTN
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.sim.simulator import simulate
from moex.sparsity.oracle import Oracle
from moex.store.bundles import NeuronPacking
from moex.types import DECODE

SCHEME = Mixed(gate_up=RTN(3, 16), down=RTN(4, 32))


@pytest.fixture(scope="module")
def loaded(exact, tmp_path_factory):
    loaded = load_model(
        str(exact), bundles=True, quant=SCHEME, cache_dir=tmp_path_factory.mktemp("packed")
    )
    yield loaded
    loaded.store.close()


@pytest.fixture(scope="module")
def dequantized(exact):
    """Stock transformers with the weights that the packed neurons stand for."""
    stock = AutoModelForCausalLM.from_pretrained(exact, experts_implementation="eager")

    def through(quantizer, weight):
        packed = pack_rows(quantizer, weight)
        return unpack_rows(quantizer, packed, weight.shape[1], weight.dtype)

    with torch.no_grad():
        for module in stock.modules():
            if hasattr(module, "gate_up_proj"):
                for both, down in zip(module.gate_up_proj, module.down_proj, strict=True):
                    both.copy_(through(SCHEME.gate_up, both))
                    down.copy_(through(SCHEME.down, down.T.contiguous()).T)
    return torch.inference_mode()(lambda tokens: stock(tokens).logits)


def test_all_rows_are_the_dequantized_model(loaded, dequantized):
    selector = Oracle(fraction=1.0, prefill="masked")
    with offload(loaded, Setup(LRU(), Memory(3), selector=selector)) as model:
        assert (decode(model, text(1, 9)) - dequantized(text(1, 9))).abs().max() < 1e-9


@pytest.mark.parametrize("mode", ["late", "predicted"])
def test_masked_prefill_is_decoding(loaded, dequantized, mode):
    chosen, tokens = Watched(Oracle(mode=mode, prefill="masked")), text(2, 12)
    with offload(loaded, Setup(LRU(), Memory(3), selector=chosen)) as model:
        whole = model(tokens).logits
        prefill = chosen.taken()
        one_by_one = decode(model, tokens)
        decoding = chosen.taken()
    assert prefill == decoding
    assert (whole - one_by_one).abs().max() < 1e-9
    assert (whole - dequantized(tokens)).abs().max() > 1e-3


def test_cache_link_and_store_change_no_logit_and_a_replay_bills_the_same_bytes(exact, loaded):
    tokens = text(1, 9)
    offloaded = offload(loaded, Setup(LRU(), Memory(8), selector=Oracle(mode="predicted")))
    with offloaded as model:
        expected = decode(model, tokens)
    future = offloaded.recorder.trace({}).future()
    on_disk = load_model(str(exact), bundles=True, quant=SCHEME, store="disk")
    for each, policy, memory, link, prefetcher in [
        (loaded, LRU(), Memory(3), LINK, Told()),
        (loaded, Belady(bypass=True), Memory(2, rows=0.4), None, NoPrefetch()),
        (on_disk, LRU(), Memory(3, rows=0.21, break_even=0.5), None, Told()),
    ]:
        chosen = Setup(policy, memory, prefetcher, link, selector=Oracle(mode="predicted"))
        offloaded = offload(each, chosen, future=future)
        with offloaded as model:
            assert (decode(model, tokens) - expected).abs().max() < 1e-9
        offloaded.finish()
        if isinstance(prefetcher, NoPrefetch):
            row, cache = Report(), RowCache(policy, loaded.geometry, 2, future=future, rows=0.4)
            row.fill(*measured(offloaded.layer_stats, None, offloaded.cache.by_rows))
            replayed = simulate(offloaded.recorder.trace({}), cache)
            assert replayed.bytes_demand == row.bytes_demand > 0
            assert replayed.capacity_bytes <= offloaded.slots.bytes
        counts = offloaded.cache_stats.phases[DECODE]
        assert counts.demand_misses + counts.partial_hits > 0
    on_disk.store.close()


def test_bytes_are_those_of_the_packed_rows(exact, loaded):
    plain, form = load_model(str(exact), bundles=True), loaded.packing.form
    assert loaded.layout.row_bytes == form.row_bytes == form.pack(
        torch.randn(192, 64), torch.randn(64, 96)
    ).shape[1]  # fmt: skip
    assert 0 <= loaded.geometry.expert_bytes - 96 * form.row_bytes < 4096
    assert loaded.geometry.expert_bytes < plain.geometry.expert_bytes / 8
    offloaded = offload(loaded, Setup(LRU(), Memory(3), selector=Oracle()))
    assert offloaded.slots.bytes == offloaded.cache.total_slots * loaded.layout.planes(96).bytes
    offloaded.close()
    report = Report()
    loaded.describe(report)
    assert (report.lossy, report.kernel) == (["quant"], "rows")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "pair",
    [(RTN(3, 32), RTN(8, 16)), (RTN(4, 64), RTN(4, 64)), (None, RTN(2, 16)), (RTN(4, 64), None)],
)
def test_neurons_are_unpacked_alike_by_every_way(pair, dtype):
    draw = torch.Generator().manual_seed(2)
    both = (torch.randn(80, 64, generator=draw) / 9).to(dtype)
    down = (torch.randn(64, 40, generator=draw) / 9).to(dtype)
    form = Neurons(*pair, 40, 64, dtype)
    some = form.unpack(form.pack(both, down)[[3, 4, 39]])
    rows = {
        "gate_up": both.view(2, 40, 64)[:, [3, 4, 39]].reshape(6, 64),
        "down": down.T[[3, 4, 39]],
    }
    for (name, weight), quantizer in zip(rows.items(), pair, strict=True):
        if quantizer is not None:
            packed = pack_rows(quantizer, weight)
            weight = unpack_rows(quantizer, packed, 64, dtype)
        assert torch.equal(some[name], weight)


class Odd(Quantizer):
    """A quantizer without groups."""

    tensors = pack = unpack = matmul = kernel_name = settings = None


def test_what_cannot_be_packed_by_rows_is_one_line(exact, tmp_path):
    with pytest.raises(ValueError, match=r"quant=Odd with sparsity: .*try quant=rtn_4bit"):
        load_model(str(exact), bundles=True, quant=Odd(), cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"group_size=128: does not divide the 64 inputs"):
        load_model(str(exact), bundles=True, quant=RTN(4, 128), cache_dir=tmp_path)
    biased = {"gate_up_proj": ((64, 96), torch.float32), "b": ((96,), torch.float32)}
    with pytest.raises(ValueError, match="expected gate_up_proj"):
        NeuronPacking(biased, SCHEME)
    assert not list(tmp_path.iterdir())
