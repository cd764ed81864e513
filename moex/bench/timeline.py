"""What happened when in a run, for Perfetto (ui.perfetto.dev) or chrome://tracing.

While decoding, tuples are appended to one bounded list, nothing else; times are `perf_counter`'s:

- `("visit", layer, started, ended, residents, prefetches)`: a layer's experts, by the runner
- `("stall", expert, started, seconds)`: the computing thread waited, by the link
- `("move", expert, started, ended, bytes, mover)`: one mover moved a piece, by the link
- `("load", expert, queued, arrived, speculative)`: a load from its plan to its arrival, by the link

The tracks made of them: *passes*; *compute* (passes without stalls and without the computing
thread's own moves); *stall*; a track for everything that moves bytes (disk readers, a copying
thread, the wire of an emulated link); *demand* and *prefetch* loads, several at a time; and the
occupancy of the slots. The format is Google's Trace Event Format: times in microseconds.
"""

from __future__ import annotations

import json
import threading
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from moex.runs.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from moex.bench.rounds import Round

EVENTS = 200_000
"""Tuples kept in all rounds of a run together (some 150 bytes each): the latest ones."""

COMPUTING, LINK = 1, 2
PASSES, COMPUTE, STALL = 1, 2, 3

Segment = tuple[float, float, str]


def write_timeline(path: Path, done: Round, about: dict[str, Any]) -> None:
    """Write the timeline of a round, one event per line; the file is complete or absent."""
    own = threading.current_thread().name
    limit_reached = bool(done.events) and done.events[0][2] > done.spans[0][1]
    header = json.dumps({**about, "only_the_latest_events": limit_reached})
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"displayTimeUnit":"ms","otherData":{header},"traceEvents":[\n')
        for number, event in enumerate(trace_events(done, own)):
            file.write((",\n" if number else "") + _line(event))
        file.write("\n]}\n")


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"), allow_nan=False)


def trace_events(done: Round, own_thread: str) -> Iterator[dict[str, Any]]:
    """Yield the trace events of a round; `own_thread` is the computing thread's name."""
    zero = done.spans[0][0]
    kinds: dict[str, list[tuple[Any, ...]]] = {"visit": [], "stall": [], "move": [], "load": []}
    for kind, *event in done.events:
        if event[1] >= zero:  # not a read that the round before had begun
            kinds[kind].append(tuple(event))
    for events in kinds.values():
        events.sort(key=lambda event: event[1])
    first = min((events[0][1] for events in kinds.values() if events), default=zero)
    both = zip(done.spans, done.series, strict=True)
    passes = [(begin, end, line) for (begin, end), line in both if end > first]
    for made in chain(
        _computing(passes, kinds, own_thread), _moving(kinds, own_thread), _held(kinds["visit"])
    ):
        if "ts" in made:
            made["ts"] = round(1e6 * (made["ts"] - zero), 3)
        if "dur" in made:
            made["dur"] = round(1e6 * made["dur"], 3)
        yield made


def _computing(
    passes: Sequence[tuple[float, float, dict[str, Any]]],
    kinds: dict[str, list[tuple[Any, ...]]],
    own_thread: str,
) -> Iterator[dict[str, Any]]:
    """The tracks of the computing thread; times in seconds."""
    yield _process(COMPUTING, "computing")
    for tid, track in ((PASSES, "passes"), (COMPUTE, "compute"), (STALL, "stall")):
        yield _thread(COMPUTING, tid, track)
    for begin, end, line in passes:
        seen = {name: line[name] for name in ("tokens", "stall_s", "bytes_moved")}
        yield _slice(line["phase"], begin, end, COMPUTING, PASSES, seen)
    cuts = [(begin, begin + took) for _, begin, took in kinds["stall"]]
    cuts += [(begin, end) for _, begin, end, _, mover in kinds["move"] if mover == own_thread]
    segments = _segments([(begin, end) for begin, end, _ in passes], kinds["visit"])
    for begin, end, name in without(segments, sorted(cuts)):
        yield _slice(name, begin, end, COMPUTING, COMPUTE)
    for expert, begin, took in kinds["stall"]:
        yield _slice(_name(expert), begin, begin + took, COMPUTING, STALL)


def _moving(kinds: dict[str, list[tuple[Any, ...]]], own_thread: str) -> Iterator[dict[str, Any]]:
    """A track for every mover, and the loads, which may be under way together."""
    yield _process(LINK, "link")
    movers = sorted({mover for *_, mover in kinds["move"]})
    for tid, mover in enumerate(movers, start=1):
        yield _thread(LINK, tid, "computing thread" if mover == own_thread else mover)
    for expert, begin, end, size, mover in kinds["move"]:
        tid = 1 + movers.index(mover)
        yield _slice(_name(expert), begin, end, LINK, tid, {"bytes": size})
    for number, (expert, begin, end, speculative) in enumerate(kinds["load"]):
        name = "prefetch" if speculative else "demand"
        load = {"name": name, "cat": name, "id": number, "pid": LINK, "tid": 0}
        yield {**load, "ph": "b", "ts": begin, "args": {"expert": _name(expert)}}
        yield {**load, "ph": "e", "ts": end}


def _held(visits: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """How many slots residents and prefetches hold after every visit."""
    for _, _, end, residents, prefetches in visits:
        held = {"residents": residents, "prefetches": prefetches}
        counter = {"name": "slots held", "ph": "C", "pid": COMPUTING, "tid": 0}
        yield {**counter, "ts": end, "args": held}


def without(segments: Iterable[Segment], cuts: Sequence[tuple[float, float]]) -> Iterator[Segment]:
    """Yield what the cuts leave of the segments; both are in order, cuts may overlap."""
    number = 0
    for begin, end, name in segments:
        while number < len(cuts) and cuts[number][1] <= begin:
            number += 1
        for cut_begin, cut_end in islice(cuts, number, None):
            if cut_begin >= end:
                break
            if cut_begin > begin:
                yield begin, cut_begin, name
            begin = max(begin, cut_end)
        if end > begin:
            yield begin, end, name


def _segments(
    spans: Iterable[tuple[float, float]], visits: Iterable[tuple[Any, ...]]
) -> Iterator[Segment]:
    """Passes as the visits of layers, and what the model computes between them."""
    waiting = chain(visits, [(-1, float("inf"), float("inf"))])
    layer, begin, end, *_ = next(waiting)
    for at, until in spans:
        while begin < until:
            if begin > at:
                yield at, begin, "not experts"
            yield max(begin, at), end, f"experts of layer {layer}"
            at = end
            layer, begin, end, *_ = next(waiting)
        yield at, until, "not experts"


def _process(pid: int, name: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}}


def _thread(pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(
    name: str, begin: float, end: float, pid: int, tid: int, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    known = {"name": name, "ph": "X", "ts": begin, "dur": end - begin, "pid": pid, "tid": tid}
    return {**known, "args": args} if args else known


def _name(expert: Any) -> str:
    return f"layer {expert[0]} expert {expert[1]}"
