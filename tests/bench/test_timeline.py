"""A run's timeline: well-formed, lanes that cannot overlap do not, and its sums are the row's."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from moex.bench.prompts import Prompts
from moex.bench.rounds import run_offloaded
from moex.bench.timeline import COMPUTE, COMPUTING, LINK, PASSES, STALL, without, write_timeline
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.runner.assemble import Setup, load_model

EXACT = 1e-5  # microseconds a written time may be off, as a share of a second
WORKLOAD = Prompts(prompts=["one two three", "four five six"], new_tokens=6, warmup=0, repeats=1)
SLOW = HardwareProfile("slow", link_bytes_per_s=30e6, link_latency_s=1e-4, chunk_bytes=1 << 14)


def run(mixtral, tmp_path, store, hardware=None, **more):
    loaded = load_model(str(mixtral), "auto", "cpu", store, tmp_path / "cache")
    memory = Memory(slots=3, store=store)
    batches = WORKLOAD.batches(loaded.tokenizer(), "cpu")
    given = (loaded, batches, WORKLOAD, Setup(LRU(), memory, Gate(), hardware))
    try:
        return run_offloaded(*given, **more)
    finally:
        loaded.store.close()


@pytest.fixture(scope="module", params=["copy", "disk", "emulated"])
def timed(request, mixtral, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    store = "disk" if request.param == "disk" else "ram"
    hardware = SLOW if request.param == "emulated" else None
    result = run(mixtral, folder, store, hardware, timeline=True)
    assert result.report.link == request.param
    write_timeline(folder / "timeline.json", result.round, {"model": "random"})
    return result, json.loads((folder / "timeline.json").read_text())


def slices(timeline, pid, tid):
    found = [e for e in timeline["traceEvents"] if e["ph"] == "X" and e["pid"] == pid]
    return [e for e in found if e["tid"] == tid]


def seconds(events):
    return sum(event["dur"] for event in events) / 1e6


def test_it_has_the_form_of_trace_events(timed):
    _, timeline = timed
    assert timeline["otherData"] == {"model": "random", "only_the_latest_events": False}
    fields = {"X": {"ts", "dur"}, "C": {"ts", "args"}, "M": {"args"}}
    fields |= {"b": {"ts", "id", "cat"}, "e": {"ts", "id", "cat"}}
    for event in timeline["traceEvents"]:
        assert {"name", "ph", "pid", "tid"} | fields[event["ph"]] <= set(event)
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    named = {(e["pid"], e["tid"]) for e in timeline["traceEvents"] if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in timeline["traceEvents"] if e["ph"] == "X"} <= named


def test_one_thread_or_wire_does_one_thing_at_a_time(timed):
    _, timeline = timed
    lanes = {(e["pid"], e["tid"]) for e in timeline["traceEvents"] if e["ph"] == "X"}
    assert {(COMPUTING, PASSES), (COMPUTING, COMPUTE), (COMPUTING, STALL)} <= lanes
    together = [slices(timeline, COMPUTING, COMPUTE) + slices(timeline, COMPUTING, STALL)]
    for lane in together + [slices(timeline, *lane) for lane in lanes]:
        lane.sort(key=lambda event: event["ts"])
        for one, other in pairwise(lane):
            assert one["ts"] + one["dur"] <= other["ts"] + 0.01


def test_passes_and_stalls_add_up_to_the_row(timed):
    result, timeline = timed
    report, passes = result.report, slices(timeline, COMPUTING, PASSES)
    decode = [event for event in passes if event["name"] == "decode"]
    assert len(passes) == 2 * 6
    assert seconds(decode) == pytest.approx(report.decode_s, abs=EXACT)
    assert sum(event["args"]["stall_s"] for event in decode) == pytest.approx(report.stall_s)
    assert sum(event["args"]["bytes_moved"] for event in decode) == report.bytes_moved
    stalls = slices(timeline, COMPUTING, STALL)
    within = [
        stall
        for stall in stalls
        if any(p["ts"] <= stall["ts"] <= p["ts"] + p["dur"] for p in decode)
    ]
    assert seconds(within) == pytest.approx(report.stall_s, abs=EXACT)
    computed = seconds(slices(timeline, COMPUTING, COMPUTE))
    assert computed + seconds(stalls) == pytest.approx(seconds(passes), abs=EXACT)
    if report.link == "copy":
        assert report.hidden_transfer_s == pytest.approx(0.0, abs=EXACT)
        for line in result.round.series:  # prefetches of its last layer too
            assert line["stall_s"] == pytest.approx(line["link_busy_s"], abs=1e-9)


def test_moved_bytes_and_loads_add_up_to_the_books(timed):
    result, timeline = timed
    events, done = timeline["traceEvents"], result.round
    record = done.trace.geometry.expert_bytes
    moved = sum(e["args"]["bytes"] for e in events if e["ph"] == "X" and e["pid"] == LINK)
    booked = sum(clocked.bytes_moved for clocked in done.phases.values())
    assert abs(moved - booked) <= 3 * record  # what was under way when the last pass ended
    counts = [phase for cache_stats in done.layer_stats for phase in cache_stats.phases.values()]
    begun = [e["name"] for e in events if e["ph"] == "b"]
    assert begun.count("demand") == sum(phase.demand_misses for phase in counts)
    used = sum(phase.prefetched_hits for phase in counts)
    assert used <= begun.count("prefetch") <= sum(phase.prefetch_issued for phase in counts)
    assert sorted(e["id"] for e in events if e["ph"] == "b") == list(range(len(begun)))


def test_residents_and_guesses_never_hold_more_than_the_places(timed):
    result, timeline = timed
    held = [e["args"] for e in timeline["traceEvents"] if e["ph"] == "C"]
    geometry = result.round.trace.geometry
    assert len(held) == len(result.round.trace)
    assert max(args["residents"] for args in held) == 3 * geometry.layers
    assert 0 < max(args["prefetches"] for args in held) <= 2 * geometry.top_k


def test_only_so_many_events_are_kept(mixtral, tmp_path, monkeypatch):
    monkeypatch.setattr("moex.bench.rounds.EVENTS", 40)
    done = run(mixtral, tmp_path, "ram", timeline=True).round
    assert len(done.events) == 40
    write_timeline(tmp_path / "timeline.json", done, {})
    timeline = json.loads((tmp_path / "timeline.json").read_text())
    assert timeline["otherData"]["only_the_latest_events"] is True
    assert len(slices(timeline, COMPUTING, PASSES)) < 12


def test_nothing_is_written_down_unless_asked(mixtral, tmp_path):
    assert run(mixtral, tmp_path, "ram").round.events == []


def test_cuts_are_taken_out_of_segments():
    segments = [(0.0, 4.0, "a"), (4.0, 6.0, "b"), (6.0, 7.0, "c")]
    cuts = [(1.0, 2.0), (3.0, 5.0), (3.5, 4.5), (6.0, 7.0)]
    left = [(0.0, 1.0, "a"), (2.0, 3.0, "a"), (5.0, 6.0, "b")]
    assert list(without(segments, cuts)) == left
