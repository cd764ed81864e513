"""moex without Hydra: what a `with` block leaves behind."""

from __future__ import annotations

import threading

import pytest
import torch
from records import handles

import moex
from moex.prefetch.oracle import Oracle
from moex.prefetch.previous import Previous
from moex.prefetch.recorded import Recorded


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_leaving_the_block_leaves_no_thread_and_no_handle(mixtral, store):
    threads, before = threading.active_count(), handles()
    prompt = torch.arange(2, 12)[None]
    tokens = []
    for _ in range(2):
        with moex.load(str(mixtral), slots=3, store=store) as model:
            tokens.append(model.generate(prompt, max_new_tokens=5, do_sample=False))
    assert torch.equal(*tokens)
    assert threading.active_count() == threads
    assert handles() == before


def test_a_load_that_fails_leaves_nothing_open(mixtral):
    moex.load(str(mixtral), slots=3, store="disk").close()
    threads, before = threading.active_count(), handles()
    with pytest.raises(ValueError, match=r"memory.rows=0.5"):
        moex.load(str(mixtral), slots=3, store="disk", rows=0.5)
    assert threading.active_count() == threads
    assert handles() == before


class Wishful(Previous):
    """Asks for what no run gives."""

    needs = frozenset({"hidden", "router_logits"})


def test_a_prefetcher_that_needs_what_no_run_gives_is_refused(mixtral):
    with pytest.raises(ValueError, match="Wishful needs router_logits, which no run provides"):
        moex.load(str(mixtral), slots=3, prefetch=Wishful())


@pytest.mark.parametrize("prefetcher", [Oracle(), Recorded()])
def test_a_prefetcher_that_was_told_no_future_is_refused(mixtral, prefetcher):
    name = type(prefetcher).__name__
    with pytest.raises(ValueError, match=rf"prefetch={name}\(\): .* try prefetch.set_future\(moex"):
        moex.load(str(mixtral), slots=3, prefetch=prefetcher)


def test_thin_places_are_refused_where_whole_experts_are_replayed():
    with pytest.raises(ValueError, match=r"memory.rows=0.5: slots for a share of an expert need"):
        moex.simulate("tiny", slots=3, rows=0.5)
