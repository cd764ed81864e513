"""How should memory be divided between the device and a cache of experts in host memory?

`simulate`: tokens/s against the bytes of device and host together, at three splits, of Mixtral's
and Qwen3's geometry with 4.5 bits a weight, on three machines (`conf/hardware`). Routing is
synthetic (`moex.trace.synthetic`): temporal locality and skew as its defaults, so that numbers
stand for a kind of routing, not for a model. LRU in both tiers, no prefetching.

`live`: the same question of a model here, from its files on this disk: for each total and split a
command of `python run.py` is printed or, with --run, run in turns.

    python experiments/studies/three_tiers/study.py simulate [--tokens 300] [--tiny]
    python experiments/studies/three_tiers/study.py live [--model tiny] [--run] [--tiny]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.harness import ROOT, arguments, emit, machine, table
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.sim.replay import replay
from moex.sim.scaled import scaled
from moex.trace.synthetic import generate
from moex.types import Geometry

if TYPE_CHECKING:
    from argparse import Namespace

BITS = 4.5
GEOMETRIES = {
    "mixtral": Geometry(32, 8, 2, 4096, 14336, int(3 * 4096 * 14336 * BITS / 8)),
    "qwen3": Geometry(48, 128, 8, 2048, 768, int(3 * 2048 * 768 * BITS / 8)),
}
MACHINES = ("t4", "rtx3060", "rtx4090")
SPLITS = (0.25, 0.5, 0.75)
"""Of the bytes for experts, the share on the device."""
SHARES = (0.25, 0.5, 0.75)
"""Bytes for experts, as a share of all experts."""
TIERS = ("inclusive", "exclusive")


def memory_of(geometry: Geometry, total: int, split: float, tiers: str) -> Memory:
    """Bytes for experts, divided between device and host, staging of both included.

    What is left over of equal slots goes to the first layers, one slot each.
    """
    staged, layers = 2 * geometry.top_k, geometry.layers
    count = max(0, int(split * total) // geometry.expert_bytes - staged)
    slots = [min(geometry.experts, (count + layers - 1 - at) // layers) for at in range(layers)]
    used = (sum(slots) + staged) * geometry.expert_bytes
    return Memory(slots, host=total - used, tiers=tiers)


def simulated(given: Namespace) -> None:
    """Print a row a geometry, machine, total and split."""
    rows = []
    for name in given.geometries:
        geometry = GEOMETRIES[name]
        trace = generate(geometry, given.tokens)
        for word in given.machines:
            profile = machine(word)
            hardware = scaled(profile, trace)
            for share in given.shares:
                total = int(share * geometry.all_bytes)
                for split, tiers in ((split, tiers) for split in SPLITS for tiers in TIERS):
                    memory = memory_of(geometry, total, split, tiers)
                    report = replay(Decisions(LRU(), memory), trace, hardware)
                    loads = (report.host_hits or 0) + (report.host_loads or 0)
                    row = {
                        "geometry": name,
                        "profile": word,
                        "GB of experts": total / 1e9,
                        "on the device": split,
                        "tiers": tiers,
                        "slots": report.slots,
                        "hit rate": report.hit_rate,
                        "host hits": (report.host_hits or 0) / max(1, loads),
                        "tokens/s": report.tokens_per_second,
                    }
                    rows.append(row)
                    if given.out:
                        emit({"source": "sim", **row, "tokens": given.tokens}, given.out)
    table(rows[0], (row.values() for row in rows))


def live(given: Namespace) -> None:
    """Print, or run in turns, a command for every total and split."""
    from moex.models import checkpoint, hub, memory_needs

    skeleton = checkpoint.build_from(hub.configuration(given.model, None), "auto")
    geometry, _ = memory_needs.sizes(skeleton)
    shown = []
    for share in given.shares:
        for split in SPLITS:
            memory = memory_of(geometry, int(share * geometry.all_bytes), split, "exclusive")
            slots = str(memory.slots).replace(" ", "")
            words = f"memory.slots={slots} memory.host={memory.host} memory.tiers=exclusive"
            words += f" model.name={given.model} memory.store=disk prefetch=none tracker=none"
            shown.append((share, split, words))
    if not given.run:
        for _, _, words in shown:
            print(f"python run.py {words}")
        return
    rows = []
    for turn in range(given.pairs):
        for share, split, words in shown:
            command = [sys.executable, str(ROOT / "run.py"), *words.split(), f"seed={turn}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            speed, hits = found["tokens_per_second"], found["host_hits"]
            rows.append((turn, share, split, found["slots"], hits, found["host_loads"], speed))
    table(("turn", "share", "on device", "slots", "host hits", "host loads", "tokens/s"), rows)


def main() -> None:
    """Run a part."""
    given = arguments(
        __doc__,
        "simulate",
        "live",
        tiny={"tokens": 6, "machines": ["rtx3060"], "shares": [0.5], "geometries": ["mixtral"]},
        tokens=300,
        geometries=(list(GEOMETRIES), "which", str),
        machines=(list(MACHINES), "profiles of conf/hardware", str),
        shares=(list(SHARES), "bytes for experts, as shares of all of them"),
        model=("tiny", "live: a folder or a name on the hub"),
        run=(False, "live: run the commands, in turns"),
        pairs=3,
        out=(None, "append the rows to this file", Path),
    )
    (simulated if given.part == "simulate" else live)(given)


if __name__ == "__main__":
    main()
