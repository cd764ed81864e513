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


WORDS = {"cache": "lfu", "prefetch": "gate", "slots": 3}
PROMPT = torch.arange(2, 12)[None]


def continued(model):
    return model.generate(PROMPT, max_new_tokens=5, do_sample=False)


def test_words_make_the_same_parts_as_instances(mixtral):
    found = []
    for given in (WORDS, WORDS | {"cache": moex.LFU(), "prefetch": moex.Gate()}):
        plans: list = []
        loading = {"store": "disk", "dtype": torch.float32, "on_plan": plans.append}
        with moex.load(str(mixtral), **loading, **given) as model:
            continued(model)
        found.append(plans)
    assert found[0] == found[1] != []
    by_word = moex.simulate("tiny", **WORDS, hardware="toy")
    assert by_word == moex.simulate(
        "tiny", cache=moex.LFU(), prefetch=moex.Gate(), slots=3, hardware="toy"
    )
    assert by_word.tokens_per_second > 0


def test_a_word_brings_the_options_that_its_yaml_switches_on():
    from moex.named import parts

    found = parts(prefetch="corm", sparsity=None, hardware="rtx3060_slow_link")
    assert type(found["sparsity"]).__module__ == "moex.sparsity.corm"
    assert type(found["prefetch"].coarse).__name__ == "MLP"
    assert (found["hardware"].name, found["hardware"].chunk_bytes) == ("rtx3060_slow_link", 4194304)


@pytest.mark.parametrize("group", ["cache", "prefetch", "quant", "miss", "routing", "hardware"])
def test_every_option_of_a_group_is_a_word(group):
    from moex.named import CONF, EXAMPLES, parts

    names = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert EXAMPLES[group] in names
    needs_a_value = {"static"}  # cache.counts
    for name in names - needs_a_value:
        parts(**{group: name})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"cache": moex.LRU}, r"cache=LRU: a class; .*; try cache=LRU\(\) or cache='lru'"),
        ({"prefetch": moex.Gate}, r"prefetch=Gate: a class; expected an instance of Prefetcher"),
        ({"cache": moex.Gate()}, r"cache=Gate\(.*: a Gate; expected an instance of CachePolicy"),
        ({"cache": 4}, "cache=4: a int; expected an instance of CachePolicy, or a name"),
        ({"hardware": 4090}, "hardware=4090: a int; .* try hardware='t4'"),
        ({"slots": "4"}, "slots='4': a str; expected a number of experts a layer"),
    ],
)
def test_a_class_or_another_type_is_refused_in_one_line(given, line):
    for call in (moex.load, moex.simulate):
        with pytest.raises(TypeError, match=line) as refused:
            call("tiny", **given)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "better"),
    [
        ({"cache": "lur"}, {"cache": "lru"}),
        ({"cache": "learn"}, {"cache": "learned"}),
        ({"cache": "../cache/lru"}, {"cache": "lru"}),
        ({"hardware": "4090"}, {"hardware": "rtx4090"}),
        ({"prefetch": ""}, {"prefetch": "gate"}),
    ],
)
def test_a_string_that_names_no_part_is_told_one_that_works(given, better):
    ((name, value),) = better.items()
    with pytest.raises(ValueError, match=rf"no part of that name; .*; try {name}='{value}'"):
        moex.simulate("tiny", **given)
    moex.simulate("tiny", **better)


def test_a_part_is_an_attribute_by_the_name_of_its_class():
    assert moex.LRU.__module__ == "moex.cache.lru"
    with pytest.raises(
        AttributeError, match=r"moex\.Random: stands for moex\.cache\.random\.Random and"
    ):
        _ = moex.Random
    with pytest.raises(AttributeError, match="module 'moex' has no attribute 'LUR'"):
        _ = moex.LUR


def test_a_report_tells_what_was_called_during_the_block_and_after(mixtral):
    offloaded = moex.load(str(mixtral), slots=3, store="ram", cache="lru")
    with offloaded as model:
        continued(model)
        during = offloaded.report()
        continued(model)
    after = offloaded.report()
    assert (during.tokens_prefill, during.tokens_decode) == (10, 4)
    assert (after.tokens_prefill, after.tokens_decode) == (20, 8)
    assert during.requests == 4 * 4 * 2
    assert during.resident_hits + during.demand_misses == during.requests
    assert after.bytes_moved > during.bytes_moved > 0
    assert (during.policy, during.slots, during.source) == ("LRU", 3, "live")
    assert during.decode_s < after.decode_s
    assert not offloaded.model._forward_hooks
    after.json()


def test_a_budget_replaces_the_slots_in_load_and_replay(mixtral):
    with moex.load(str(mixtral), budget=0.8, store="ram") as model:
        continued(model)
    with pytest.raises(
        ValueError, match=r"this trace does not record them; expected memory\.slots"
    ):
        moex.simulate("tiny", budget="5GB")


def test_quantized_experts_are_replayed_with_the_bytes_they_are_packed_into():
    plain, packed = moex.simulate("tiny"), moex.simulate("tiny", quant="rtn_4bit")
    assert packed.lossy == ["quant"]
    assert 4 < packed.bits_per_weight < 4.5
    assert packed.bytes_moved / plain.bytes_moved == pytest.approx(packed.bits_per_weight / 16)
    assert packed.resident_hits == plain.resident_hits
