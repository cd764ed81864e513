"""Where rows do not pay whole experts are moved: the transfer changes, no logit does."""

from __future__ import annotations

import json

import pytest
import torch

import moex
from moex.cache.lru import LRU
from moex.decisions.decisions import Decisions
from moex.models.loader import load_model
from moex.prefetch.corm import Corm as Prefetch
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Memory, Setup, offload
from moex.sim.replay import replay
from moex.sparsity.random import Random
from moex.store import row_break_even
from moex.store.bundles import NeuronPlanes

PROMPT = torch.arange(16, 32)[None]


def logits(model) -> torch.Tensor:
    made = model.generate(
        PROMPT, max_new_tokens=6, min_new_tokens=6, output_logits=True, return_dict_in_generate=True
    )
    return torch.stack(made.logits)


def opened(store: str, break_even: float | None, **other):
    settings = {"slots": 4, "prefetch": Prefetch(Gate()), "sparsity": Random(fraction=0.3)}
    settings |= {"governor": False}  # a copying link would pause the prefetcher
    return moex.load("tiny", LRU(), store=store, break_even=break_even, **settings | other)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_the_transfer_changes_no_logit(store):
    found = {}
    for break_even in (1.0, 0.1):
        offloaded = opened(store, break_even)
        with offloaded as model:
            found[break_even] = logits(model)
            assert offloaded.cache.by_rows == (break_even == 1.0)
    assert torch.equal(found[1.0], found[0.1])


def test_plans_of_whole_experts_are_those_without_a_selector():
    plans, expected = [], []
    with opened("ram", 0.1, on_plan=plans.append) as model:
        logits(model)
    # The same routing, replayed without a selector.
    recorded = []
    offloaded = opened("ram", 0.1)
    with offloaded as model:
        logits(model)
        trace = offloaded.recorder.trace({})
    replay(Decisions(LRU(), Memory(4), Recorded()), trace, on_plan=expected.append)
    replay(
        Decisions(LRU(), Memory(4, break_even=0.1), Recorded(), neurons=0.3),
        trace,
        on_plan=recorded.append,
    )
    assert plans == expected[: len(plans)]
    assert recorded == expected


def test_the_row_of_a_replay_says_what_was_moved():
    offloaded = opened("ram", 1.0, prefetch=NoPrefetch())
    with offloaded as model:
        logits(model)
        trace = offloaded.recorder.trace({})
    for break_even, by_rows in ((1.0, True), (0.3, False), (0.31, True)):
        row = replay(Decisions(LRU(), Memory(4, break_even=break_even), neurons=0.3), trace)
        assert (row.rows_moved, row.break_even, row.lossy) == (by_rows, break_even, ["sparsity"])
        assert row.bytes_selected
        assert (row.row_hit_rate is None) != by_rows


def test_a_model_is_loaded_by_rows_only_where_they_are_moved(tmp_path):
    given = {"bundles": True, "fraction": 0.3, "cache_dir": tmp_path}
    rows = load_model("tiny", store="disk", break_even=0.5, **given)
    assert rows.layout.neurons
    assert rows.store.whole is not None  # for loads of most of an expert
    whole = load_model("tiny", store="disk", break_even=0.2, **given)
    assert isinstance(whole.layout, NeuronPlanes)
    for loaded in (rows, whole):
        setup = Setup(LRU(), Memory(4), selector=Random(fraction=0.3))
        with offload(loaded, setup) as model:
            assert logits(model).isfinite().all()
        loaded.store.close()


def test_the_break_even_is_measured_once_and_kept(tmp_path, monkeypatch):
    tensors = load_model("tiny", store="ram").layers[0].tensors
    calls = []
    took = {0.0: 5.0, 0.1: 1.0, 0.3: 3.0, 1.0: 9.0}
    monkeypatch.setattr(row_break_even, "measure", lambda pair: calls.append(pair) or took)
    monkeypatch.setattr(row_break_even, "_deciding_s", lambda width: 0.0)
    shares = [row_break_even.kept(tensors, "ram", tmp_path) for _ in range(2)]
    assert shares[0] == shares[1]
    # Loads of .4 x 5 s take as long as rows of which .4 are selected, half of them new.
    assert shares[0] == pytest.approx(0.4)
    assert len(calls) == 1
    assert list(json.loads((tmp_path / row_break_even.KEPT).read_text()).values()) == shares[:1]
    row_break_even.kept(tensors, "disk", tmp_path)
    assert len(calls) == 2


def test_an_emulated_link_moves_rows_unless_its_profile_says_otherwise():
    from moex.decisions.rows import known_break_even
    from moex.hardware.profile import HardwareProfile

    link = HardwareProfile("slow", link_bytes_per_s=1e8)
    assert known_break_even(Memory(4), link, "disk") == 1.0
    assert known_break_even(Memory(4), None, "disk") is None
    profile = HardwareProfile("here", break_even={"disk": 0.2})
    assert known_break_even(Memory(4), profile, "disk") == 0.2
    assert known_break_even(Memory(4, break_even=0.7), profile, "disk") == 0.7
