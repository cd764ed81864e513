"""Does mode=plan promise what mode=simulate gives? Five models on three machines, by slots.

Both charge the same scaled costs; a plan knows only the hit rate, a simulation has every visit of a
synthetic trace. Prints the ratio of the plan's tokens/s at the simulated hit rate to the
simulation's, without prefetching, and the mean and largest error. Needs no weights and no timing.

python experiments/benchmarks/forecast/plan_against_simulate.py [--tokens 150] [--tiny]
"""

from statistics import mean

import yaml

from experiments.harness import ROOT, arguments, machine, table
from moex.api import simulate
from moex.cache.lru import LRU
from moex.hardware.forecast import forecast
from moex.models import checkpoint, hub, memory_needs
from moex.trace.synthetic import Dials, generate
from moex.types import Geometry

MODELS = ["tiny", "olmoe", "mixtral_8x7b", "qwen3_30b_a3b", "gpt_oss_20b"]
MACHINES = ["rtx3060", "rtx4090", "h100"]


def sizes(name: str) -> tuple[Geometry, dict[str, int]]:
    """Geometry of a model of conf/model, and the bytes that a token reads beside experts."""
    given = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    config = hub.configuration(given["name"], given.get("architecture"))
    model = checkpoint.build_from(config, given["dtype"])
    geometry, skeleton = memory_needs.sizes(model)
    return geometry, memory_needs.bytes_read(model, geometry.layers, skeleton)


def main() -> None:
    """Print a row for every cell, and the errors."""
    args = arguments(
        __doc__,
        tiny={"tokens": 8, "models": ["tiny", "olmoe"]},
        tokens=150,
        models=(MODELS, "options of conf/model", MODELS),
        machines=(MACHINES, "options of conf/hardware"),
        slots=([0.25, 0.5, 0.75], "shares of a layer's experts that are resident", float),
    )
    rows = []
    for name in args.models:
        geometry, read = sizes(name)
        trace = generate(geometry, args.tokens, dials=Dials())
        trace.provenance |= read
        for profile in map(machine, args.machines):
            for slots in args.slots:
                report = simulate(trace, LRU(), slots, hardware=profile)
                assert report.hit_rate is not None
                assert report.tokens_per_second is not None
                planned = forecast(geometry, profile.on(geometry, **read), report.hit_rate)
                ratio = planned.plain / report.tokens_per_second
                speeds = (planned.plain, report.tokens_per_second, ratio)
                rows.append((name, profile.name, report.slots, report.hit_rate, *speeds))
    table(("model", "machine", "slots", "hit rate", "plan", "simulation", "ratio"), rows)
    errors = [abs(row[-1] - 1) for row in rows]
    print(f"\nmean error {mean(errors):.1%}, largest {max(errors):.1%}, of {len(rows)} cells")


if __name__ == "__main__":
    main()
