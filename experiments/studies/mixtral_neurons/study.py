"""Experts and neurons at Mixtral-8x7B's true geometry, simulated on rtx3060 and t4.

    python experiments/studies/mixtral_neurons/study.py --traces FOLDER [--half FOLDER] [--tiny]

Routing is the bundled `synthetic_mixtral` trace, rows are those that the bundled model needed
(`experiments/studies/two_level/record.py`, mode predicted), experts are named as often right as
AdapMoE measured; the README says what that carries over. Draws mixtral_neurons.png beside this.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.published import ADAPMOE_MEAN, CORM_SPEEDUP
from analysis.style import COLOURS, WIDE, caption, new, styled
from experiments.harness import arguments, machine, show
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.hardware.profile import READ_SHARE
from moex.predictors.nets import Lean, nets
from moex.prefetch.recorded import Recorded
from moex.sim.simulator import simulate
from moex.types import Expert, Geometry, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from moex.hardware.profile import HardwareProfile
    from moex.trace.format import Trace

SHAPE = Geometry(layers=32, experts=8, top_k=2, hidden=4096, intermediate=14336, expert_bytes=0)
LAYERS, EXPERTS = SHAPE[:2]
WHOLE = {16: 352_321_536, 4: 93_600_000, 2: 66_400_000}
"""Bytes of an expert: 16 bits, and HQQ with groups of 64 (4 bits) and of 16 (2 bits)."""
BUNDLE = {16: 24_576, 4: 7_168, 2: 4_608}
"""Bytes of a neuron with its own scales: 4 bits in groups of 64, 2 in groups of 32, padded."""
RANK, WIDTH = 176, 256
"""Of our selector on the bundled model (its factors), and of its networks."""
GATHERED = 0.88
"""Share of the link's peak that packed rows reach: FloE, arXiv 2505.05950."""
LAUNCH_S = 7.5e-6
PERFECT = {"rtx3060": 2.04e-4, "t4": 2.16e-4}
"""A layer beside its experts with perfect kernels: see conf/hardware."""
SLOTS = (2, 3, 4)
Row = dict[str, Any]
Use = tuple[bytes, bytes | None]
"""The rows that one visit needed of one expert, and those that were predicted a layer early."""


def selector_bytes(shape: Geometry, rank: int, width: int = WIDTH) -> int:
    """What a selector like ours holds (`moex/sparsity/lean.py`), shared tables aside.

    Four bits a factor, eight a code and a prediction of it, padded as the kernels want it.
    """
    layers, experts, _, hidden, neurons, _ = shape
    inputs, outputs = -(-rank // 32) * 32, -(-2 * neurons // 64) * 64
    factors = experts * outputs * inputs // 2 + 2 * experts * 2 * neurons
    cuts = 2 * 2 * experts * 20
    own = inputs * hidden + 2 * inputs
    ahead = (inputs + width) * (hidden + 2) + inputs * (width + 2) + 2 * (inputs + width)
    return layers * (factors + cuts + own) + (layers - 1) * ahead


def namer_bytes(shape: Geometry) -> int:
    """Networks that name experts one layer ahead, as `prefetch=mlp` holds them: in 8 bits."""
    (net,) = nets(shape._replace(layers=2), WIDTH, horizon=1)
    return (shape.layers - 1) * Lean(net, 1).nbytes


def pools(trace: Trace) -> dict[Expert, list[Use]]:
    """What every expert of the bundled model needed, by visits, where it was predicted."""
    found: dict[Expert, list[Use]] = {}
    assert trace.rows is not None
    assert trace.predictions is not None
    for access in trace.accesses():
        before = trace.predictions[access.clock - 1] if access.layer else []
        early = {said.expert: said.rows for said in before}
        for index, rows in zip(access.experts, trace.rows[access.clock], strict=True):
            expert = Expert(access.layer, index)
            if rows is not None and (not access.layer or expert in early):
                found.setdefault(expert, []).append((rows, early.get(expert)))
    return found


def composed(recorded: Trace, visits: int, seed: int = 0) -> Trace:
    """Mixtral's routing with the bundled model's rows; names are right in `ADAPMOE_MEAN`.

    Layer 0 takes the rows of layer 0, the others those of layers 1 to 5 in equal parts; each expert
    goes through the recorded uses of the expert of its number one after the other, from a start
    of its own, so that what an expert needs changes from visit to visit as it did.
    """
    trace = read_trace("synthetic_mixtral").select(slice(0, visits))
    used, draw = pools(recorded), random.Random(seed)
    last, usual = recorded.geometry.layers - 1, {e.layer: pool for e, pool in used.items()}
    position = {
        Expert(layer, i): draw.randrange(10**6) for layer in range(LAYERS) for i in range(8)
    }

    def uses(expert: Expert) -> Use:
        layer = 1 + (expert.layer - 1) * last // (LAYERS - 1) if expert.layer else 0
        pool = used.get(Expert(layer, expert.index)) or usual[layer]  # few texts: not all are used
        return pool[position[expert] % len(pool)]

    rows: list[list[bytes | None]] = []
    said: list[list[Prediction]] = []
    for access in trace.accesses():
        names = [Expert(access.layer, index) for index in access.experts]
        rows.append([uses(expert)[0] for expert in names])
        if said and access.layer:  # said at the visit before
            for expert in names:
                if draw.random() >= ADAPMOE_MEAN:
                    others = [i for i in range(EXPERTS) if i not in access.experts]
                    expert = Expert(access.layer, draw.choice(others))
                said[-1].append(Prediction(expert, 1.0, uses(expert)[1]))
        said.append([])
        for expert in names:
            position[expert] += 1
    shape = SHAPE._replace(intermediate=recorded.geometry.intermediate, expert_bytes=WHOLE[16])
    return replace(trace, geometry=shape, rows=rows, predictions=said)


def costed(name: str, bits: int, perfect: bool, neurons: bool) -> Any:
    """The machine with the costs of experts of these bits; neurons pay for being selected."""
    profile = machine(name)
    assert profile.memory_bytes_per_s is not None
    assert profile.link_bytes_per_s is not None
    memory = READ_SHARE * profile.memory_bytes_per_s
    changes = {"expert_s": WHOLE[bits] / memory}
    if perfect:
        changes["visit_s"] = PERFECT[name]
    if neurons:
        two = SHAPE._replace(layers=2)
        changes |= {
            "select_s": selector_bytes(two, RANK) / EXPERTS / memory + 6 * LAUNCH_S,
            "predict_s": namer_bytes(two) / memory + 3 * LAUNCH_S,
            "link_bytes_per_s": GATHERED * profile.link_bytes_per_s,
        }
    return replace(profile, **changes)


def thin_slots(bits: int, slots: int, rows: float, spent: int) -> int:
    """Thin slots a layer for the bytes of so many whole ones and four staging slots."""
    free = (slots * LAYERS + 4) * WHOLE[bits] - spent
    return min(int(free / (rows * BUNDLE[bits] * SHAPE.intermediate) - 4) // LAYERS, EXPERTS)


def cells(traces: dict[float, Trace], tiny: bool) -> Iterator[Row]:
    """A row a machine, software, bits and budget."""
    whole = next(iter(traces.values()))
    names = [[p._replace(rows=None) for p in each] for each in whole.predictions or ()]
    spent = selector_bytes(SHAPE, RANK) + namer_bytes(SHAPE)
    whole = replace(whole, predictions=names)
    grid = (("rtx3060", "t4"), (False, True), (16, 4, 2), SLOTS)
    for name, perfect, bits, slots in [("rtx3060", True, 2, 2)] if tiny else product(*grid):
        plain = costed(name, bits, perfect, False)
        geometry = whole.geometry._replace(expert_bytes=WHOLE[bits])
        layer_s = plain.visit_s + 2 * plain.expert_s
        row: Row = {
            "machine": name,
            "software": "perfect kernels" if perfect else "published",
            "bits": bits,
            "slots": slots,
            "GB": (slots * LAYERS + 4) * WHOLE[bits] / 1e9,
            "r": WHOLE[bits] / plain.link_bytes_per_s / layer_s,
            "lru": _ms(whole, geometry, slots, plain, ahead=False),
            "lru + lookahead": _ms(whole, geometry, slots, plain, ahead=True),
        }
        for fraction, trace in traces.items():
            share = fraction + 0.1
            count = thin_slots(bits, slots, share, spent)
            if count >= 2:
                own = geometry._replace(expert_bytes=BUNDLE[bits] * SHAPE.intermediate)
                ms = _ms(trace, own, count, costed(name, bits, perfect, True), True, share)
                row[f"neurons {fraction:.0%}"] = ms
                row[f"speedup {fraction:.0%}"] = row["lru + lookahead"] / ms
        yield row


def _ms(
    trace: Trace, shape: Geometry, slots: int, at: HardwareProfile, ahead: bool, rows: float = 0.0
) -> float:
    cache = ExpertCache(LRU(), shape, slots)
    if rows:
        cache = RowCache(LRU(), shape, slots, rows=rows)
    trace, prefetch = replace(trace, geometry=shape), Recorded() if ahead else None
    return 1e3 * (simulate(trace, cache, prefetch, at).tpot_s or 0.0)


def draw(rows: list[Row], about: str) -> Figure:
    """A panel a machine and software: speedup over whole experts by bits, a bar a fraction."""
    kinds = list(dict.fromkeys((row["machine"], row["software"]) for row in rows))
    figure, axes = new(1, len(kinds), (WIDE, 2.6))
    fractions = [name for name in rows[0] if name.startswith("speedup")]
    for axis, kind in zip(axes[0], kinds, strict=True):
        mine = [r for r in rows if (r["machine"], r["software"]) == kind and r["slots"] == 3]
        for number, name in enumerate(fractions):
            at = [bar + 0.36 * number - 0.18 for bar in range(len(mine))]
            heights = [row.get(name, 0.0) for row in mine]
            look = {"color": COLOURS[number], "label": f"{name.split()[1]} of the neurons"}
            axis.bar(at, heights, 0.34, **look)
        axis.axhline(CORM_SPEEDUP, color="0.45", linestyle="--", label="CORM: up to 2.14")
        axis.axhline(1, color="0.45", linewidth=0.8)
        axis.set_xticks(range(len(mine)), [f"{r['bits']} bits\nr {r['r']:.2g}" for r in mine])
        axis.set(title=", ".join(kind), ylim=(0, 3.9))
        axis.grid(axis="x", visible=False)
    axes[0][0].set_ylabel("speed over LRU + lookahead")
    axes[0][0].legend(loc="upper right")
    return caption(figure, about)


def main() -> None:
    """Compose, replay, print, draw."""
    args = arguments(
        __doc__,
        traces=(Path, "of record.py, fraction 0.3"),
        half=(None, "of record.py, fraction 0.5", Path),
        out=Path(__file__).parent,
    )
    visits = (4 if args.tiny else 100) * LAYERS
    traces = {
        fraction: composed(read_trace(folder / "predicted.parquet"), visits)
        for fraction, folder in ((0.3, args.traces), (0.5, args.half))
        if folder
    }
    for rank in (RANK, RANK * SHAPE.hidden // 256):
        size = selector_bytes(SHAPE, rank) / 1e9
        print(f"selector of rank {rank}: {size:.2f} GB; names: {namer_bytes(SHAPE) / 1e9:.3f}")
    show(rows := list(cells(traces, args.tiny)))
    about = (
        "Simulated at Mixtral-8x7B's geometry, 3 slots a layer's bytes on both sides, predictor "
        "included. Routing synthetic, rows of the bundled model, names of experts right in "
        f"{ADAPMOE_MEAN:.1%} on both sides, rank {RANK} assumed to be enough. Dashed: CORM's "
        "abstract, against a baseline that it does not name."
    )
    if not args.tiny:
        with styled():
            path = args.out / "mixtral_neurons.png"
            draw(rows, about).savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
