"""What a run held is gone when it is over, without the garbage collector: it may be most of memory.

The collector comes by when many objects were made, not when they are large: a sweep would load the
next cell's model beside the last one's.
"""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from hydra import compose, initialize_config_dir
from records import handles
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from moex import api
from moex.bench import rounds as runner
from moex.cache.core import ExpertCache
from moex.cli.build import typed_run
from moex.cli.errors import CONF, forget, register_resolvers
from moex.hardware.profile import HardwareProfile
from moex.link.base import Link
from moex.miss.host import Host
from moex.modes import eval, live, simulate, verify
from moex.prefetch.gate import Gate
from moex.runner.offloaded import OffloadedModel
from moex.sparsity.oracle import Oracle
from moex.store.base import ExpertStore
from moex.store.ram import RamStore
from moex.store.slots import Slots
from moex.trace.format import Trace
from moex.trace.record import TraceRecorder

LARGE = (PreTrainedModel, ExpertStore, Slots, Link, OffloadedModel, ExpertCache)
LARGE += (Trace, TraceRecorder)
RUNS = [
    (live, ["memory.store=ram", "bottleneck=true"]),
    (live, ["memory.store=disk", "cache=belady", "runner.timeline=true"]),
    (live, ["memory.store=ram", "+hardware.link_bytes_per_s=3e8", "prefetch=gate_norm"]),
    (live, ["memory.store=ram", "miss=host"]),
    (live, ["memory.store=disk", "sparsity=oracle"]),
    (live, ["runner=stock"]),
    (verify, ["memory.store=disk"]),
    (eval, ["eval.tasks=[moex_swap]", "smoke=true"]),
    (simulate, ["cache=lru"]),
]


@pytest.fixture
def configured(mixtral, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    words = ["model=hf", f"model.name={mixtral}", "memory.slots=3", "eval=none", "bottleneck=false"]
    words += ["workload.new_tokens=3", "workload.limit=1", "workload.repeats=1", "quant=none"]

    def make(*more):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*words, *more])

    return make


@pytest.fixture
def left():
    """What is left of large things since the test began, by name."""
    gc.collect()
    before = large()
    gc.disable()
    yield lambda: sorted(
        type(each).__name__ for each in large() if not any(each is old for old in before)
    )
    gc.enable()


def large() -> list:
    return living(LARGE)


def living(kinds: type | tuple[type, ...]) -> list:
    """All objects of these kinds; every type is asked once, for abstract classes answer slowly."""
    objects = gc.get_objects()
    wanted = {kind for kind in {type(each) for each in objects} if issubclass(kind, kinds)}
    return [each for each in objects if type(each) in wanted]


@pytest.mark.parametrize(("mode", "words"), RUNS, ids=lambda value: getattr(value, "__name__", ""))
def test_nothing_large_is_left_of_a_run(configured, tmp_path, left, mode, words):
    config = configured(*words)
    report = mode.run(typed_run(config), tmp_path)
    assert report.mode or report.source
    simulate._opened.cache_clear()  # one trace is kept for the next cell of a sweep
    assert left() == []


def test_nothing_large_is_left_of_a_cell_that_failed_though_its_error_is_kept(
    configured, tmp_path, left, monkeypatch
):
    def fail(*_, **__):
        raise RuntimeError("no more")

    monkeypatch.setattr(runner, "generate", fail)
    with pytest.raises(RuntimeError, match="no more") as caught:
        live.run(typed_run(configured("memory.store=ram")), tmp_path)
    assert left() != []
    forget(caught.value)
    assert left() == []


def test_nothing_large_is_left_of_a_model_without_hydra(mixtral, left):
    with api.load(str(mixtral), slots=3, prefetch=Gate(), store="ram") as model:
        assert left() != []
    del model
    assert left() == []


WAYS = {
    "emulated": {"store": "ram", "hardware": HardwareProfile("x", link_bytes_per_s=1e9)},
    "kernel": {"store": "disk"},
    "threads": {"store": "disk", "hardware": HardwareProfile(chunk_bytes=4096)},
    "host": {"store": "ram", "miss": Host()},
    "rows": {"store": "ram", "sparsity": Oracle(), "rows": 0.5},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_model_that_nobody_closes_takes_threads_files_and_memory_with_it(mixtral, left, way):
    before = handles(), threading.active_count()
    offloaded = api.load(str(mixtral), slots=3, prefetch=Gate(), **way)
    assert left() != []
    del offloaded
    assert left() == []
    assert (handles(), threading.active_count()) == before


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_memory_is_given_back_when_the_block_is_left_whoever_keeps_the_model(mixtral, left, way):
    """A traceback or a notebook's last result may keep all objects for long."""
    offloaded = api.load(str(mixtral), slots=3, prefetch=Gate(), **way)
    slots, store = offloaded.slots, offloaded.link.store
    held = [slots.records, *(store.records if isinstance(store, RamStore) else ())]
    memory = {tensor.untyped_storage().data_ptr() for tensor in held}
    del held
    assert memory <= storages()
    with offloaded as model:
        model.generate(torch.arange(2, 12)[None], max_new_tokens=4, do_sample=False)
    assert not memory & storages()
    offloaded.finish()
    assert offloaded.cache_stats.phases["decode"].requests == 3 * 4 * 2
    with pytest.raises(RuntimeError, match="closed before"):
        offloaded.__enter__()


def storages() -> set[int]:
    """Where the memory of all tensors is that Python knows; those of a compiler have none."""
    tensors = [each for each in living(torch.Tensor) if not isinstance(each, FakeTensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
