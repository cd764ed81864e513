"""Write the bundled synthetic trace of Mixtral-8x7B's shape.

    python experiments/bundled_model/training/make_trace.py

Synthetic: no model ran. Its dials are set so that LRU hits about .37 at 2 slots and .60 at 4, the
rates that the cost model of experiments/paper/seed1_table2 assumes for Eliseev & Mazur's table 2.
"""

from __future__ import annotations

from experiments.harness import arguments
from moex.paths import ASSETS
from moex.trace.format import write_trace
from moex.trace.synthetic import Dials, generate
from moex.types import Geometry

EXPERT_BYTES = 66_400_000  # 2-bit experts, 3.016 bits a weight with scales and zeros


def main() -> None:
    """Generate the routing and write it."""
    given = arguments(
        __doc__,
        tiny={"tokens": 2},
        tokens=150,
        out=(ASSETS / "traces/synthetic_mixtral.parquet", "the file"),
    )
    geometry = Geometry(32, 8, 2, 4096, 14336, EXPERT_BYTES)
    dials = Dials(skew=0.5, temporal=0.15, linked=0.0)
    trace = generate(geometry, tokens=given.tokens, sequences=2, dials=dials, seed=1)
    trace.provenance |= {
        "model": "synthetic routing of Mixtral-8x7B's shape, 2-bit experts",
        "workload": f"2 sequences of {given.tokens} random tokens",
    }
    write_trace(trace, given.out)
    print(f"{given.out}: {given.out.stat().st_size} bytes, {len(trace)} visits")


if __name__ == "__main__":
    main()
