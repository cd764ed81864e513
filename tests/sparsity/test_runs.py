"""Which neurons count depends on the token alone, whatever the cache, link and prefetcher."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from small_models import tiny_config
from test_parity import LOGICAL
from transformers import AutoModelForCausalLM

from moex import api
from moex.cache.belady import Belady
from moex.cache.fifo import FIFO
from moex.cache.lru import LRU
from moex.decisions.decisions import Decisions
from moex.hardware.profile import HardwareProfile
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.sim.simulator import simulate
from moex.sparsity.oracle import Oracle
from moex.sparsity.random import Random
from moex.store.disk import DiskStore
from moex.trace.format import read_trace, write_trace
from moex.types import DECODE, PREFILL

LINK = HardwareProfile("slow", link_bytes_per_s=3e8, link_latency_s=2e-5, chunk_bytes=8192)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A small random Mixtral in float64."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("float64")
    model = AutoModelForCausalLM.from_config(tiny_config("mixtral")).double()
    with torch.no_grad():  # larger than at birth, so that its experts matter
        for name, parameter in model.named_parameters():
            if "experts" in name:
                parameter *= 8
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(exact):
    return load_model(str(exact), bundles=True)


@pytest.fixture(scope="module")
def dense(exact):
    """Stock transformers."""
    stock = AutoModelForCausalLM.from_pretrained(exact, experts_implementation="eager")
    return torch.inference_mode()(lambda tokens: stock(tokens).logits)


class Watched:
    """A selector whose answers are kept: by layer and state, so that order does not matter."""

    def __init__(self, selector) -> None:
        self._selector, self._seen = selector, set()

    def __getattr__(self, name):
        return getattr(self._selector, name)

    def select(self, hidden, layer, experts):
        chosen = self._selector.select(hidden, layer, experts)
        for index, mask in zip(experts, chosen, strict=True):
            for state, row in zip(hidden, mask, strict=True):
                key = tuple((state[:4] * 1e6).round().tolist())
                self._seen.add((layer, index, key, tuple(row.nonzero()[:, 0].tolist())))
        return chosen

    def taken(self):
        seen, self._seen = self._seen, set()
        return seen


@torch.inference_mode()
def decode(model, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of every token [batch, tokens, vocabulary], one token after the other."""
    out = model(tokens[:, :1], use_cache=True)
    logits = [out.logits]
    for number in range(1, tokens.shape[1]):
        token = tokens[:, number : number + 1]
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


def text(batch: int, length: int) -> torch.Tensor:
    return torch.randint(2, 128, (batch, length), generator=torch.Generator().manual_seed(1))


class Told(Prefetcher):
    """Gate lookahead, with the rows that the run's selector selects from the state it sees."""

    needs = frozenset({"lookahead", "hidden"})

    def __init__(self, width: int = 3) -> None:
        self.width = width

    def bind(self, geometry, model, selector=None):
        self.gate, self.selector = Gate(width=self.width), selector
        self.gate.reset(geometry, 0)

    def predict(self, observation):
        said = self.gate.predict(observation)
        if not said or self.selector is None or observation.access.phase == PREFILL:
            return said  # without a selector whole experts are moved
        experts = [p.expert.index for p in said]
        chosen = self.selector.select(observation.hidden, said[0].expert.layer, experts)
        rows = [np.packbits(c.any(0), bitorder="little").tobytes() for c in chosen]
        return [p._replace(rows=r) for p, r in zip(said, rows, strict=True)]


def test_all_rows_are_the_dense_model(loaded, dense):
    selector = Oracle(fraction=1.0, prefill="masked")
    with offload(loaded, Setup(LRU(), Memory(3), selector=selector)) as model:
        assert (decode(model, text(1, 9)) - dense(text(1, 9))).abs().max() < 1e-9


@pytest.mark.parametrize("mode", ["late", "predicted"])
@pytest.mark.parametrize("selector", [Oracle, Random, partial(Oracle, rule="energy", fraction=0.8)])
def test_masked_prefill_is_decoding(loaded, dense, mode, selector):
    chosen = Watched(selector(mode=mode, prefill="masked"))
    tokens = text(2, 12)
    with offload(loaded, Setup(LRU(), Memory(3), selector=chosen)) as model:
        whole = model(tokens).logits
        prefill = chosen.taken()
        with torch.inference_mode():
            one_by_one = decode(model, tokens)
        decoding = chosen.taken()
    assert (whole - one_by_one).abs().max() < 1e-9
    assert (whole - dense(tokens)).abs().max() > 1e-3
    assert prefill == decoding


@pytest.fixture(scope="module")
def references(loaded):
    """Logits with everything on the device, and the future, by mode and batch size."""
    found = {}
    for mode, batch in itertools.product(["late", "predicted"], [1, 2]):
        offloaded = offload(loaded, Setup(LRU(), Memory(8), selector=Oracle(mode=mode)))
        with offloaded as model:
            logits = decode(model, text(batch, 9))
        found[mode, batch] = logits, offloaded.recorder.trace({}).future()
    return found


CACHES = [(LRU(), 3), (FIFO(), 8), (Belady(bypass=True), 2)]
MEMORIES = [{}, {"rows": 0.4}, {"rows": 0.21}, {"rows": 0.4, "break_even": 0.2}]


WAYS = [(None, NoPrefetch()), (LINK, Gate(depth=2)), (LINK, Told()), (None, Told())]


@pytest.mark.parametrize(
    ("memory", "mode", "batch"),
    [
        ({}, "late", 1),
        ({}, "predicted", 2),
        ({"rows": 0.4}, "predicted", 1),
        ({"rows": 0.4}, "late", 2),
        ({"rows": 0.21}, "predicted", 1),
        ({"rows": 0.4, "break_even": 0.2}, "late", 1),
    ],
    ids=str,
)
def test_cache_link_and_prefetcher_change_no_logit(loaded, references, memory, mode, batch):
    tokens = text(batch, 9)
    expected, future = references[mode, batch]
    for (policy, slots), (link, prefetcher) in itertools.product(CACHES, WAYS):
        chosen = Setup(
            policy, Memory(slots, **memory), prefetcher, link, selector=Oracle(mode=mode)
        )
        offloaded = offload(loaded, chosen, future=future)
        with offloaded as model:
            logits = decode(model, tokens)
        assert (logits - expected).abs().max() < 1e-9, (policy, link, prefetcher)
        counts = offloaded.cache_stats.phases[DECODE]
        assert counts.requests == (
            counts.resident_hits
            + counts.prefetched_hits
            + counts.partial_hits
            + counts.demand_misses
        )


@pytest.mark.parametrize(("memory", "threads"), [({}, 1), ({"rows": 0.4}, 2)], ids=str)
def test_neurons_are_read_from_files(exact, references, memory, threads):
    expected, _ = references["predicted", 1]
    loaded = load_model(str(exact), bundles=True, store="disk")
    setting = Memory(3, reader_threads=threads, **memory)
    selector = Oracle(mode="predicted")
    for prefetcher in (NoPrefetch(), Told()):
        with offload(loaded, Setup(LRU(), setting, prefetcher, selector=selector)) as model:
            assert (decode(model, text(1, 9)) - expected).abs().max() < 1e-9
    loaded.store.close()


def test_from_a_share_on_whole_experts_are_read_into_their_places(exact, references, monkeypatch):
    expected, _ = references["predicted", 1]
    loaded = load_model(str(exact), bundles=True, store="disk", break_even=0.01)
    read, laid_out = [], []
    part, rows = DiskStore.read_part, DiskStore.rows
    monkeypatch.setattr(DiskStore, "read_part", lambda s, *a: read.append(s) or part(s, *a))
    monkeypatch.setattr(DiskStore, "rows", lambda s, e, r: laid_out.append(r) or rows(s, e, r))
    for share, whole in ((0.01, True), (1.0, False)):
        setting = Memory(3, break_even=share)
        chosen = Setup(LRU(), setting, Told(), selector=Oracle(mode="predicted"))
        with offload(loaded, chosen) as model:
            assert (decode(model, text(1, 9)) - expected).abs().max() < 1e-9
        assert set(read) == {loaded.store.whole}  # also of an expert all of whose rows are wanted
        assert any(found is not None for found in laid_out) != whole  # a selector reads all itself
    loaded.store.close()


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
@pytest.mark.parametrize("pool", ["layer", "global"])
def test_a_replay_takes_the_same_decisions(loaded, tmp_path, memory, pool):
    tokens = text(2, 9)
    for prefetcher, replayed_by in [
        (NoPrefetch(),) * 2,
        (Gate(depth=2),) * 2,
        (Told(), Recorded()),
    ]:
        live, replayed = [], []
        setting = Memory(3, pool=pool, **memory)
        chosen = Setup(LRU(), setting, prefetcher, LINK, selector=Oracle(mode="predicted"))
        offloaded = offload(loaded, chosen, on_plan=live.append)
        with offloaded as model:
            for row in tokens:
                decode(model, row[None])
        offloaded.finish()
        path = write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet")
        cache = Decisions(LRU(), setting, neurons=0.0).build(loaded.geometry)
        report = simulate(read_trace(path), cache, replayed_by, LINK, on_plan=replayed.append)
        assert replayed == live
        row = type(report)()
        row.fill(*measured(offloaded.layer_stats, None, offloaded.cache.by_rows))
        assert {n: getattr(row, n) for n in LOGICAL} == {n: getattr(report, n) for n in LOGICAL}
        assert row.bytes_demand < loaded.geometry.expert_bytes * row.requests


def test_without_hydra(exact, references):
    expected, _ = references["late", 1]
    thin = {"slots": 3, "store": "ram", "sparsity": Oracle(), "rows": 0.4}
    with api.load(str(exact), prefetch=Gate(), **thin) as model:
        assert (decode(model, text(1, 9)) - expected).abs().max() < 1e-9


def test_an_exact_selector_is_none(exact):
    loaded = [{"sparsity": Oracle(mode="exact")}, {}]
    logits = []
    for more in loaded:
        with api.load(str(exact), slots=3, store="ram", **more) as model:
            logits.append(decode(model, text(1, 4)))
    assert torch.equal(*logits)
