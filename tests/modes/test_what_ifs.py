"""The what-ifs of the bottleneck line against real reruns, for every miss handler."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
from studies import run_cell

from moex.api import read_trace
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.hardware.profile import COSTS, HardwareProfile
from moex.miss.base import MissHandler, Split
from moex.miss.fetch import Fetch
from moex.miss.host import Host
from moex.miss.hybrid import Hybrid
from moex.miss.skip import Skip
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runs.report import Report
from moex.sim.bottleneck import analyze, analyze_live, fitted, live_line

MACHINE = HardwareProfile(
    "toy",
    link_bytes_per_s=5.75e8,
    chunk_bytes=65536,
    visit_s=7.76e-4,
    expert_s=1.25e-4,
    submit_s=2e-5,
    host_expert_s=2e-3,
    expert_bytes=589_824,
)
UNITS = ("policy", "capacity", "bandwidth", "compute")


@dataclass
class Balanced(MissHandler):
    """An out-of-tree handler: fetches what the link moves while a visit is computed."""

    on_host: ClassVar[bool] = True

    fetched: int = 0

    def bound(self, geometry, hardware):
        load_s = geometry.expert_bytes / hardware.link_bytes_per_s
        covered = (hardware.visit_s + 3 * hardware.expert_s) / load_s
        return replace(self, fetched=int(covered))

    def split(self, access, missing, room):
        least = max(self.fetched, room)
        return Split(missing[:least], missing[least:])


HANDLERS = {
    "fetch": (Fetch(), ["miss=fetch"]),
    "host": (Host(), ["miss=host"]),
    "hybrid": (Hybrid(), ["miss=hybrid"]),
    "hybrid_given": (Hybrid(load_s=1e-3), ["miss=hybrid", "miss.load_s=1e-3"]),
    "skip": (Skip(), ["miss=skip"]),
    "out_of_tree": (Balanced(), [f"miss._target_={__name__}.Balanced", "+miss.fetched=0"]),
}


def words_of(profile: HardwareProfile) -> list[str]:
    """The profile as it is typed."""
    given = {each.name: getattr(profile, each.name) for each in fields(profile)}
    given |= {"name": "typed", "source": "typed"}
    return ["hardware=auto", *(f"++hardware.{k}={v!r}" for k, v in given.items() if v is not None)]


def row(folder, *words: str) -> dict:
    """The row of a real run."""
    before = set(folder.glob("*/result.json"))
    run_cell(["bottleneck=false", *words], folder)
    (written,) = set(folder.glob("*/result.json")) - before
    return json.loads(written.read_text())


def typed(unit: str, profile: HardwareProfile, slots: int) -> list[str]:
    """What somebody types to try a what-if for real."""
    halved = {name: getattr(profile, name) / 2 for name in COSTS}
    if profile.host_expert_s is not None:
        halved["host_expert_s"] = profile.host_expert_s / 2
    elif profile.host_bytes_per_s is not None:
        halved["host_bytes_per_s"] = profile.host_bytes_per_s * 2
    link = {"link_bytes_per_s": 2 * profile.link_bytes_per_s}
    changed = {"bandwidth": link, "compute": halved}.get(unit, {})
    words = words_of(replace(profile, **changed))
    words += ["cache=belady_bypass" if unit == "policy" else "cache=lru"]
    return [*words, f"memory.slots={slots + (unit == 'capacity')}"]


@pytest.mark.parametrize("prefetch", ["none", "gate"])
@pytest.mark.parametrize("name", HANDLERS)
def test_a_what_if_is_what_a_rerun_gives(name, prefetch, tmp_path, capsys):
    handler, words = HANDLERS[name]
    words = ["mode=simulate", "smoke=true", f"prefetch={prefetch}", *words]
    prefetcher = Gate() if prefetch == "gate" else NoPrefetch()
    trace = read_trace("tiny")
    trace = trace.select(slice(32 * trace.geometry.layers))
    decisions = Decisions(LRU(), Memory(2), prefetcher, handler, governor=True)
    bottleneck = analyze(trace, decisions, MACHINE)
    given = [*words, *typed("none", MACHINE, 2)]
    assert row(tmp_path, *given, "bottleneck=true")["bottleneck"] == str(bottleneck)
    assert tuple(bottleneck.what_ifs) == UNITS
    for unit, found in bottleneck.what_ifs.items():
        rerun = row(tmp_path, *words, *typed(unit, MACHINE, 2))
        assert found.tokens_per_second == rerun["tokens_per_second"], unit
        assert found.host_computed == rerun["host_computed"], unit


@pytest.mark.parametrize("host", [{"host_expert_s": 2e-3}, {"host_bytes_per_s": 3e8}], ids=repr)
def test_twice_the_computing_speed_includes_the_host(host):
    trace = read_trace("tiny").select(slice(600))
    machine = replace(MACHINE, host_expert_s=None, submit_s=0.0)
    machine = replace(machine, link_bytes_per_s=1e15, **host)
    bottleneck = analyze(trace, Decisions(LRU(), Memory(2), None, Host()), machine)
    assert bottleneck.gains["compute"] == pytest.approx(1.0, abs=1e-3)
    assert "2x computing speed (device and host) +100.0%" in str(bottleneck)


def test_every_cost_of_a_profile_is_scaled_by_a_what_if():
    seconds = {each.name for each in fields(HardwareProfile) if each.name.endswith("_s")}
    rates = {name for name in seconds if name.endswith("_bytes_per_s")}
    assert seconds - rates - {"link_latency_s", "disk_latency_s", "host_expert_s"} == set(COSTS)


@pytest.mark.parametrize("name", ["fetch", "host", "hybrid"])
def test_a_live_bottleneck_is_what_reruns_of_its_trace_give(name, mixtral, tmp_path, capsys):
    handler, words = HANDLERS[name]
    slow = replace(MACHINE, link_bytes_per_s=2e7)
    live = ["mode=live", "model=hf", f"model.name={mixtral}", "memory.store=ram", "eval=none"]
    live += ["workload.new_tokens=5", "workload.warmup=0", "workload.repeats=1"]
    words = ["prefetch.governor=off", *words]  # it would follow the reruns' own costs
    given = row(tmp_path, *live, *words, *typed("none", slow, 3), "bottleneck=true")
    report = Report(**given)
    path = tmp_path / report.run_id / "trace.parquet"
    trace = read_trace(path)
    decisions = Decisions(LRU(), Memory(3), Gate(), handler)
    bottleneck = analyze_live(trace, decisions, slow, report)
    assert live_line(bottleneck, report) == report.bottleneck
    assert bool(report.host_computed) == (name != "fetch")
    costs = fitted(report, trace, slow)
    again = ["mode=simulate", f"trace={path}", "prefetch=gate", *words]
    for unit, found in {"none": bottleneck.report, **bottleneck.what_ifs}.items():
        rerun = row(tmp_path, *again, *typed(unit, costs, 3))
        assert found.tokens_per_second == rerun["tokens_per_second"], unit
