"""Which eviction policy wins at which capacity, and what share of the gap to the optimum it closes.

    python experiments/studies/policy_zoo/capacities.py [TRACE ...] [--interpreted 300000]

TRACE: gpt-oss-20b (a recorded routing, where `replay_conformance` finds it; also without the
generations that repeat themselves), tiny (bundled), skewed, sticky, drifting (these are synthetic);
default all. One pool a layer, and every sequence starts with an empty cache, so that sequences are
independent: intervals are of 2,000 resamples of whole sequences, paired with lru. All policies in
array form are replayed, compiled where the trace is long; the others, interpreted, on every n-th
sequence of traces that are not synthetic and at every other capacity, in tables of their own.
Prints the tables and draws capacities.png beside this file (--tiny: a glance at the bundled one).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.style import FOREIGN, MARKERS, WIDE, caption, new, policy_style, styled
from experiments.benchmarks.replay_conformance import golden
from experiments.benchmarks.replay_speed.speed import CONFIGS, build
from experiments.harness import arguments, table
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.sim.arrays.compile import array_form
from moex.sim.arrays.run import WORTH_IT
from moex.sim.replay import RecordedFuture
from moex.sim.simulator import simulate
from moex.trace.synthetic import Dials, generate
from moex.types import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

    from moex.trace.format import Trace

SHARES = (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Capacities, as shares of a layer's experts."""
BOUNDS = ("belady", "belady_bypass")
RECORDED, CLEAN = "gpt-oss-20b", "gpt-oss-20b without repetition"
GEOMETRY = Geometry(12, 64, 8, 2048, 1024, 12_582_912)
SYNTHETIC = {
    "skewed": Dials(skew=1.0, temporal=0.0, linked=0.0),
    "sticky": Dials(skew=0.3, temporal=0.6, linked=0.0),
    "drifting": Dials(skew=1.2, temporal=0.2, linked=0.0, phases=96),
}
"""24 sequences of 256 tokens: of one popularity; mostly the token before's experts; of a popularity
that changes four times a sequence."""
RESAMPLES = 2000
SHOWN = ("lfu", "lfu_aged", "window_lfu", "lfru", "gdsf", "lru_k", "static", "random")
HEAD = (
    *("trace", "slots", "lru", "best", "hit rate", "points above lru"),
    *("% of gap to belady", "to bypass", "best in", "not told apart from it"),
)

Hits = NDArray[np.int64]


class Found(NamedTuple):
    """Hits of every policy and capacity by sequence [sequences], and accesses [sequences]."""

    name: str
    requests: Hits
    hits: dict[tuple[str, int], Hits]

    @property
    def slots(self) -> list[int]:
        """The capacities."""
        return sorted({slots for _, slots in self.hits})

    @property
    def policies(self) -> list[str]:
        """The policies, without the bounds."""
        return sorted({name for name, _ in self.hits} - set(BOUNDS))

    def of(self, sequences: NDArray[np.bool_], name: str, every: int = 1) -> Found:
        """The same of some sequences, at every n-th capacity."""
        kept = self.slots[::every]
        hits = {key: each[sequences] for key, each in self.hits.items() if key[1] in kept}
        return Found(name, self.requests[sequences], hits)


def capacities(geometry: Geometry) -> list[int]:
    """Slots a layer: the shares that are whole numbers of at least top-k."""
    found = {share * geometry.experts for share in SHARES}
    return sorted(int(each) for each in found if each == int(each) and each >= geometry.top_k)


def sequences(trace: Trace) -> list[Trace]:
    """Every sequence as a trace of its own."""
    cuts = [0, *trace.sequence_starts().tolist(), len(trace)]
    return [trace.select(slice(*pair)) for pair in pairwise(cuts)]


def replay(parts: list[Trace], name: str, slots: int) -> Hits:
    """Hits in every sequence [sequences], each from an empty cache."""
    hits, policy = [], build(name)
    compiled = array_form(policy) and sum(len(part.experts) for part in parts) >= WORTH_IT
    for part in parts:
        future = RecordedFuture(part) if "future" in policy.needs else None
        cache = ExpertCache(policy, part.geometry, slots, future=future)
        hits.append(simulate(part, cache, compiled=compiled).resident_hits)
    return np.array(hits)


def measure(name: str, parts: list[Trace], policies: Iterable[str], every: int = 1) -> Found:
    """Replay policies at every capacity, or every n-th."""
    hits = {
        (policy, slots): replay(parts, policy, slots)
        for policy in policies
        for slots in capacities(parts[0].geometry)[::every]
    }
    return Found(name, np.array([len(part.experts) for part in parts]), hits)


def resampled(found: Found) -> NDArray[np.float64]:
    """How often every sequence is in each resample [resamples, sequences]; the first is as is."""
    count = len(found.requests)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.vstack([np.ones((1, count)), drawn])


def interval(values: NDArray[np.float64], scale: float = 1, signed: bool = False) -> str:
    """The first value, and the middle 95 % of all others."""
    if not np.isfinite(values).all():
        return "-"
    low, high = np.percentile(values[1:], (2.5, 97.5))
    form = ("+" if signed else "") + (".1f" if scale > 1 else ".4f")
    return "{} [{}, {}]".format(*(format(scale * x, form) for x in (values[0], low, high)))


def gap(found: Found, policy: str, slots: int, bound: str, weight: Any) -> NDArray[np.float64]:
    """Share of the gap between lru and a bound that a policy closes [resamples]."""
    base = found.hits["lru", slots]
    gained, whole = (weight @ (found.hits[each, slots] - base) for each in (policy, bound))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(gained / whole)


def winners(found: Found) -> list[list[Any]]:
    """For every capacity: the best policy, by how much, and which are not told apart from it."""
    weight, rows = resampled(found), []
    accesses = weight @ found.requests
    for slots in found.slots:
        rates = {name: weight @ found.hits[name, slots] / accesses for name in found.policies}
        best = max(rates, key=lambda name: rates[name][0])
        order = np.array([rates[name] for name in found.policies])
        won = (order[:, 1:].argmax(axis=0) == found.policies.index(best)).mean()
        alike = [
            name
            for name, rate in rates.items()
            if name != best and np.percentile(rates[best][1:] - rate[1:], 2.5) <= 0
        ]
        rows.append(
            [
                found.name,
                slots,
                f"{rates['lru'][0]:.4f}",
                best,
                interval(rates[best]),
                interval(rates[best] - rates["lru"], 100, signed=True),
                *(interval(gap(found, best, slots, bound, weight), 100) for bound in BOUNDS),
                f"{100 * won:.0f} %",
                ", ".join(alike) if len(alike) < 6 else f"{len(alike)} others",
            ]
        )
    return rows


def show(found: Found) -> None:
    """Print hit rates by policy and capacity, and which is best at each."""
    named = [*found.policies, *BOUNDS]
    rows = [[name, *(f"{found.hits[name, each].sum() / found.requests.sum():.4f}" for each in
                     found.slots)] for name in named]  # fmt: skip
    print(f"\n{found.name}: hit rates, {len(found.requests)} sequences, "
          f"{found.requests.sum()} accesses")  # fmt: skip
    table(["slots", *found.slots], rows)
    table(HEAD, winners(found))


def draw(all_found: list[Found]) -> Figure:
    """Share of lru's gap to forced Belady that policies close, by capacity, a panel a trace."""
    columns = (len(all_found) + 1) // 2
    figure, axes = new(2, columns, (WIDE, 4.6))
    for axis in axes.flat[len(all_found) :]:
        axis.remove()
    for found, axis in zip(all_found, axes.flat, strict=False):
        weight = resampled(found)
        for marker, name in zip((*MARKERS, *FOREIGN), SHOWN, strict=False):
            style = policy_style(name) | {"marker": marker}  # told apart without colour
            gaps = {each: 100 * gap(found, name, each, "belady", weight) for each in found.slots}
            gaps = {each: share for each, share in gaps.items() if np.isfinite(share).all()}
            low, high = np.percentile([share[1:] for share in gaps.values()], (2.5, 97.5), axis=1)
            axis.plot(list(gaps), [share[0] for share in gaps.values()], label=name, **style)
            axis.fill_between(list(gaps), low, high, color=style["color"], alpha=0.15, lw=0)
        axis.axhline(0, color="0.3", lw=0.8)
        axis.set_title(found.name + (" (synthetic)" if found.name in SYNTHETIC else ""))
        axis.set_ylim(-45, 65)
        axis.set_xlabel("slots a layer")
    for row in axes:
        row[0].set_ylabel("% of lru's gap to Belady")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SHOWN))
    text = (
        "Share of the gap between lru (0) and Belady with forced admission (100) that policies "
        "close; bands: 95 % intervals over sequences, paired. At top-k slots there is no gap. "
        "Simulated, one pool a layer, cold at every sequence."
    )
    return caption(figure, text)


def traces(names: list[str]) -> dict[str, list[Trace]]:
    """The sequences of every named trace that is there."""
    found = {}
    for name in names:
        if name in SYNTHETIC:
            found[name] = sequences(generate(GEOMETRY, 256, 24, SYNTHETIC[name]))
        elif name != RECORDED:
            found[name] = sequences(read_trace(name))
        elif golden.folder().is_dir():
            found[name] = sequences(golden.load())
        else:
            print(f"{name} is left out: no recorded routing in {golden.folder()}; set "
                  "MOEX_SHARED_DATA to the folder that holds traces/")  # fmt: skip
    return found


def clean(found: Found) -> Found:
    """The recorded generations that their author did not mark as repeating themselves."""
    lines = (golden.folder() / "sequences.jsonl").read_text().splitlines()
    return found.of(np.array([not json.loads(line)["repetition"] for line in lines]), CLEAN)


def main() -> None:
    """Print the tables, draw the figure."""
    given = arguments(
        __doc__,
        tiny={"traces": ["tiny"], "interpreted": 2000},
        _traces=[RECORDED, "tiny", *SYNTHETIC],
        interpreted=(300_000, "accesses of a trace that the other policies are given, about"),
    )
    apart = ("none", "forecast")  # the latter asks a prefetcher
    named = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in apart)
    arrays = [name for name in named if array_form(build(name))]
    drawn = []
    for name, parts in traces(given.traces).items():
        if given.tiny:
            parts = [part.select(slice(120)) for part in parts]
        drawn.append(measure(name, parts, arrays))
        show(drawn[-1])
        if name == RECORDED:
            drawn.append(clean(drawn[-1]))
            show(drawn[-1])
        if name not in SYNTHETIC:
            scored, whole = parts[0].has("scores"), drawn[-1 - (name == RECORDED)]
            tried = [each for each in named if each not in arrays and (scored or each != "mrs")]
            step = -(-int(whole.requests.sum()) // given.interpreted)
            part = whole.of(np.arange(len(parts)) % step == 0, name, 2)
            hits = measure(name, parts[::step], tried, 2).hits | part.hits
            show(Found(f"{name}, part", part.requests, hits))
    if not given.tiny:
        with styled():
            figure = draw(drawn)
            figure.savefig(Path(__file__).with_name("capacities.png"), metadata={"Software": None})


if __name__ == "__main__":
    main()
