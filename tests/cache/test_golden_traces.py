"""Hit rates on a recorded routing: against a second, independent replay and a published table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/benchmarks/replay_conformance/golden.py"
spec = importlib.util.spec_from_file_location("golden", SCRIPT)
assert spec is not None
assert spec.loader is not None
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

pytestmark = pytest.mark.skipif(
    not golden.folder().is_dir(),
    reason="no recorded routing: set MOEX_SHARED_DATA to the folder that holds traces/",
)


def replay(trace, name: str, slots: int) -> int:
    """Loads of the plain definition: every sequence and layer alone, everybody admitted."""
    chosen = trace.experts.reshape(-1, golden.GEOMETRY.top_k).tolist()
    streams: dict[tuple[int, int], list[list[int]]] = {}
    for sequence, layer, visit in zip(trace.sequence, trace.layer, chosen, strict=True):
        streams.setdefault((int(sequence), int(layer)), []).append(visit)
    return sum(stream_loads(stream, name, slots) for stream in streams.values())


def stream_loads(stream: list[list[int]], name: str, slots: int) -> int:
    loads = 0
    last: dict[int, int] = {}
    uses: dict[int, int] = {}
    residents: list[int] = []  # in order of entry
    for clock, chosen in enumerate(stream):
        for expert in chosen:
            uses[expert] = uses.get(expert, 0) + 1
        rest = stream[clock + 1 :]
        for expert in [expert for expert in chosen if expert not in residents]:
            loads += 1
            if len(residents) == slots:
                others = [other for other in residents if other not in chosen]
                ranks = {
                    "LRU": [(last[other], other) for other in others],
                    "LFU": [(uses[other], last[other], other) for other in others],
                    "FIFO": [(residents.index(other),) for other in others],
                    "MIN": [(-next_use(rest, other),) for other in others],
                }[name]
                residents.remove(others[ranks.index(min(ranks))])
            residents.append(expert)
        last.update(dict.fromkeys(chosen, clock))
    return loads


def next_use(rest: list[list[int]], expert: int) -> int:
    return next((clock for clock, chosen in enumerate(rest) if expert in chosen), len(rest))


@pytest.mark.parametrize("slots", [6, 16])
@pytest.mark.parametrize("name", golden.POLICIES)
def test_loads_equal_an_independent_replay(name, slots):
    trace = golden.load(sequences=2).select(slice(440 * 24, 580 * 24))
    assert len(set(trace.sequence.tolist())) == 2
    report = golden.measure(trace, name, slots, "reset")
    assert report.demand_misses == replay(trace, name, slots)


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.POLICIES)
def test_whole_trace_gives_the_published_hit_rates(name):
    report = golden.measure(golden.load(), name, 8, "reset")
    assert (
        round(report.hit_rate, 4) == golden.EXPECTED["reset"][8][list(golden.POLICIES).index(name)]
    )
