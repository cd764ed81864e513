"""Experts and neurons at Mixtral-8x7B's true geometry, simulated on rtx3060 and t4.

    python experiments/33_mixtral_neurons/study.py --traces FOLDER [--half FOLDER] [--tiny]

Routing is the bundled `synthetic_mixtral` trace, rows are those that the bundled model needed
(`experiments/32_two_level/record.py`, mode predicted), experts are named as often right as AdapMoE
measured. The README says what that carries over. `--half` are traces recorded with
`--fraction 0.5`. Prints the tables and draws mixtral_neurons.png beside this file.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from analysis.published import ADAPMOE_MEAN
from analysis.style import COLOURS, WIDE, caption, new, styled
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.rows import RowCache
from moex.prefetch.nets import Lean, nets
from moex.prefetch.recorded import Recorded
from moex.sim.hardware import HardwareProfile
from moex.sim.simulator import simulate
from moex.types import Expert, Geometry, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from moex.trace.format import Trace

ROOT = Path(__file__).parents[2]
HIDDEN, NEURONS, EXPERTS, LAYERS = 4096, 14336, 8, 32
WHOLE = {16: 352_321_536, 4: 93_600_000, 2: 66_400_000}
"""Bytes of an expert: 16 bits, and HQQ with groups of 64 (4 bits) and of 16 (2 bits)."""
BUNDLE = {16: 24_576, 4: 7_168, 2: 4_608}
"""Bytes of a neuron with its own scales: 4 bits in groups of 64, 2 in groups of 32, padded."""
RANK, WIDTH = 176, 256
"""Of our selector on the bundled model (its factors), and of its networks."""
GATHERED = 0.88
"""Share of the link's peak that packed rows reach: FloE, arXiv 2505.05950."""
LAUNCH_S = 7.5e-6
READ = 0.85
"""Share of a memory's peak that reading weights reaches, as the profiles assume."""
PERFECT = {"rtx3060": 2.04e-4, "t4": 2.16e-4}
"""A layer beside its experts with perfect kernels: see conf/hardware."""
SLOTS = (2, 3, 4)
Row = dict[str, Any]


class Use(NamedTuple):
    """The rows that one visit needed of one expert, and those that were guessed a layer early."""

    needed: bytes
    early: bytes | None


def selector_bytes(
    hidden: int, neurons: int, experts: int, layers: int, rank: int, width: int = WIDTH
) -> int:
    """What a selector like ours holds (`moex/sparsity/lean.py`), shared tables aside.

    Four bits a factor, eight a code and a guess of it, padded as the kernels want it.
    """
    inputs, outputs = -(-rank // 32) * 32, -(-2 * neurons // 64) * 64
    factors = experts * outputs * inputs // 2 + 2 * experts * 2 * neurons
    cuts = 2 * 2 * experts * 20
    own = inputs * hidden + 2 * inputs
    ahead = (inputs + width) * (hidden + 2) + inputs * (width + 2) + 2 * (inputs + width)
    return layers * (factors + cuts + own) + (layers - 1) * ahead


def namer_bytes(layers: int) -> int:
    """Networks that name experts one layer ahead, as `prefetch=mlp` holds them: in 8 bits."""
    (net,) = nets(Geometry(2, EXPERTS, 2, HIDDEN, NEURONS, 0), WIDTH, horizon=1)
    return layers * Lean(net, 1).nbytes


def pools(trace: Trace) -> dict[Expert, list[Use]]:
    """What every expert of the bundled model needed, by visits, where its name was guessed."""
    found: dict[Expert, list[Use]] = {}
    assert trace.rows is not None
    assert trace.predictions is not None
    for access in trace.accesses():
        before = trace.predictions[access.clock - 1] if access.layer else []
        early = {said.expert: said.rows for said in before}
        for index, rows in zip(access.experts, trace.rows[access.clock], strict=True):
            expert = Expert(access.layer, index)
            if rows is not None and (not access.layer or expert in early):
                found.setdefault(expert, []).append(Use(rows, early.get(expert)))
    return found


def composed(recorded: Trace, visits: int, seed: int = 0) -> Trace:
    """Mixtral's routing with the bundled model's rows; names are right in `ADAPMOE_MEAN`.

    Layer 0 takes the rows of layer 0, the others those of layers 1 to 5 in equal parts; each expert
    goes through the recorded uses of the expert of its number one after the other, from a place of
    its own, so that what an expert needs changes from visit to visit as it did.
    """
    trace = read_trace(ROOT / "moex" / "assets" / "traces" / "synthetic_mixtral.parquet")
    trace = trace.select(slice(0, visits))
    used, draw = pools(recorded), random.Random(seed)
    last = recorded.geometry.layers - 1
    usual = {expert.layer: pool for expert, pool in used.items()}
    place = {Expert(layer, i): draw.randrange(10**6) for layer in range(LAYERS) for i in range(8)}

    def uses(expert: Expert) -> Use:
        layer = 1 + (expert.layer - 1) * last // (LAYERS - 1) if expert.layer else 0
        pool = used.get(Expert(layer, expert.index)) or usual[layer]  # few texts: not all are used
        return pool[place[expert] % len(pool)]

    rows: list[list[bytes | None]] = []
    said: list[list[Prediction]] = []
    for access in trace.accesses():
        names = [Expert(access.layer, index) for index in access.experts]
        rows.append([uses(expert).needed for expert in names])
        if said and access.layer:  # said at the visit before
            for expert in names:
                if draw.random() >= ADAPMOE_MEAN:
                    others = [i for i in range(EXPERTS) if i not in access.experts]
                    expert = Expert(access.layer, draw.choice(others))
                said[-1].append(Prediction(expert, 1.0, uses(expert).early))
        said.append([])
        for expert in names:
            place[expert] += 1
    geometry = Geometry(LAYERS, EXPERTS, 2, HIDDEN, recorded.geometry.intermediate, WHOLE[16])
    return replace(trace, geometry=geometry, rows=rows, predictions=said)


def machine(name: str, bits: int, perfect: bool, neurons: bool) -> Any:
    """The profile with the costs of experts of these bits; neurons pay for being selected."""
    fields = yaml.safe_load((ROOT / "conf" / "hardware" / f"{name}.yaml").read_text())
    del fields["_target_"]
    profile = HardwareProfile(**fields)
    assert profile.memory_bytes_per_s is not None
    assert profile.link_bytes_per_s is not None
    memory = READ * profile.memory_bytes_per_s
    changes = {"expert_s": WHOLE[bits] / memory}
    if perfect:
        changes["visit_s"] = PERFECT[name]
    if neurons:
        layer = selector_bytes(HIDDEN, NEURONS, EXPERTS, 2, RANK) // 2
        names = namer_bytes(1) / memory
        changes |= {
            "select_s": 2 * layer / EXPERTS / memory + 6 * LAUNCH_S,
            "predict_s": names + 3 * LAUNCH_S,
            "link_bytes_per_s": GATHERED * profile.link_bytes_per_s,
        }
    return replace(profile, **changes)


def places(bits: int, slots: int, rows: float, spent: int) -> int:
    """Thin slots a layer for the bytes of so many whole ones and four staging places."""
    free = (slots * LAYERS + 4) * WHOLE[bits] - spent
    return min(int(free / (rows * BUNDLE[bits] * NEURONS) - 4) // LAYERS, EXPERTS)


def cells(traces: dict[float, Trace], tiny: bool) -> Iterator[Row]:
    """A row a machine, software, bits and budget."""
    whole = next(iter(traces.values()))
    names = [[p._replace(rows=None) for p in each] for each in whole.predictions or ()]
    whole = replace(whole, predictions=names)
    spent = selector_bytes(HIDDEN, NEURONS, EXPERTS, LAYERS, RANK) + namer_bytes(LAYERS - 1)
    for name in ("rtx3060",) if tiny else ("rtx3060", "t4"):
        for perfect in (True,) if tiny else (False, True):
            for bits in (2,) if tiny else (16, 4, 2):
                plain = machine(name, bits, perfect, False)
                layer_s = plain.visit_s + 2 * plain.expert_s
                for slots in (2,) if tiny else SLOTS:
                    geometry = whole.geometry._replace(expert_bytes=WHOLE[bits])
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
                        count = places(bits, slots, share, spent)
                        if count < 2:
                            row[f"neurons {fraction:.0%}"] = None
                            continue
                        own = geometry._replace(expert_bytes=BUNDLE[bits] * NEURONS)
                        fitted = machine(name, bits, perfect, True)
                        ms = _ms(trace, own, count, fitted, True, share)
                        row[f"neurons {fraction:.0%}"] = ms
                        row[f"speedup {fraction:.0%}"] = row["lru + lookahead"] / ms
                    yield row


def _ms(
    trace: Trace,
    geometry: Geometry,
    slots: int,
    profile: HardwareProfile,
    ahead: bool,
    rows: float = 0.0,
) -> float:
    trace = replace(trace, geometry=geometry)
    cache = ExpertCache(LRU(), geometry, slots)
    books = RowCache(cache, rows) if rows else None
    guess = Recorded() if ahead else None
    report = simulate(trace, cache, guess, profile, neurons=books)
    return 1e3 * (report.tpot_s or 0.0)


def show(rows: list[Row]) -> None:
    """Print the README's table."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        found = [row.get(name) for name in heads]
        cells = ["-" if v is None else v if isinstance(v, str) else _number(v) for v in found]
        print("| " + " | ".join(cells) + " |")


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def draw(rows: list[Row], about: str) -> Figure:
    """A panel a machine and software: speedup over whole experts by bits, a bar a fraction."""
    kinds = list(dict.fromkeys((row["machine"], row["software"]) for row in rows))
    figure, axes = new(1, len(kinds), (WIDE, 2.6))
    fractions = [name for name in rows[0] if name.startswith("speedup")]
    for axis, kind in zip(axes[0], kinds, strict=True):
        mine = [r for r in rows if (r["machine"], r["software"]) == kind and r["slots"] == 3]
        for number, name in enumerate(fractions):
            at = [place + 0.36 * number - 0.18 for place in range(len(mine))]
            heights = [row.get(name) or 0.0 for row in mine]
            label = f"{name.split()[1]} of the neurons"
            axis.bar(at, heights, 0.34, color=COLOURS[number], label=label)
        axis.axhline(2.14, color="0.45", linestyle="--", label="CORM: up to 2.14")
        axis.axhline(1, color="0.45", linewidth=0.8)
        ticks = [f"{row['bits']} bits\nr {row['r']:.2g}" for row in mine]
        axis.set_xticks(range(len(mine)), ticks)
        axis.set(title=", ".join(kind), ylim=(0, 3.9))
        axis.grid(axis="x", visible=False)
    axes[0][0].set_ylabel("speed over LRU + lookahead")
    axes[0][0].legend(loc="upper right")
    return caption(figure, about)


def main() -> None:
    """Compose, replay, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="of record.py, fraction 0.3")
    parser.add_argument("--half", type=Path, help="of record.py, fraction 0.5")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tiny", action="store_true", help="a smoke run; its numbers mean nothing")
    args = parser.parse_args()
    visits = (4 if args.tiny else 100) * LAYERS
    folders = {0.3: args.traces, **({0.5: args.half} if args.half else {})}
    traces = {
        fraction: composed(read_trace(folder / "predicted.parquet"), visits)
        for fraction, folder in folders.items()
    }
    for rank in (RANK, RANK * HIDDEN // 256):
        size = selector_bytes(HIDDEN, NEURONS, EXPERTS, LAYERS, rank) / 1e9
        print(
            f"selector of rank {rank}: {size:.2f} GB; networks: {namer_bytes(LAYERS - 1) / 1e9:.3f}"
        )
    rows = list(cells(traces, args.tiny))
    show(rows)
    about = (
        "Simulated at Mixtral-8x7B's geometry, 3 slots a layer's bytes on both sides, predictor "
        "included. Routing synthetic, rows of the bundled model, names of experts right in "
        f"{ADAPMOE_MEAN:.1%} on both sides, rank {RANK} assumed to be enough. Dashed: CORM's "
        "abstract, against a baseline that it does not name."
    )
    if not args.tiny:
        with styled():
            figure = draw(rows, about)
            figure.savefig(args.out / "mixtral_neurons.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
