"""Gate lookahead behind an emulated link: how much of its possible gain arrives.

For load times of 0.5, 1, 2 and 4 layer times and 2 to 4 slots of 8, `prefetch=gate` against
`prefetch=none`, live and in interleaved pairs, beside the gain that a replay of the run's own trace
promises: the same plans on a clock, with the computing costs measured here.

python experiments/benchmarks/spine/lookahead.py [--pairs 7] [--loads 1 2] [--slots 3]
"""

from dataclasses import replace
from statistics import median

import torch

from analysis.paired import paired_ratio
from experiments.harness import arguments
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.calibrate.measure import calibrate
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import LoadedModel, Memory, Setup, load_model, offload
from moex.sim.simulator import simulate

PROMPTS = [torch.arange(16 + 97 * k, 48 + 97 * k)[None] for k in range(4)]


def measure(
    loaded: LoadedModel, slots: int, prefetcher: object, profile: HardwareProfile, tokens: int
):
    """Seconds a token of one run, and its trace."""
    offloaded = offload(loaded, Setup(LRU(), Memory(slots), prefetcher, profile))
    with offloaded as model:
        generate(model, PROMPTS, tokens, offloaded.meter)
    offloaded.finish()
    offloaded.close()
    decode = offloaded.meter.phases["decode"]
    return decode.seconds / decode.passes, offloaded


def main() -> None:
    """Print one line a cell."""
    args = arguments(
        __doc__,
        tiny={"pairs": 2, "tokens": 3, "loads": [4.0], "slots": [2]},
        pairs=7,
        tokens=48,
        threads=1,
        loads=[0.5, 1, 2, 4],
        slots=[2, 3, 4],
    )
    torch.set_num_threads(args.threads)
    loaded = load_model("tiny")
    geometry = loaded.geometry
    here = calibrate(loaded)
    layer_s = here.visit_s + geometry.top_k * here.expert_s
    print(f"a layer takes {1e6 * layer_s:.0f} us, one expert of it {1e6 * here.expert_s:.0f} us")
    print("load/layer slots | none ms  gate ms | measured gain              | replay's | share")
    for load in args.loads:
        profile = replace(
            here,
            name="emulated",
            link_bytes_per_s=geometry.expert_bytes / (load * layer_s),
            link_latency_s=0.0,
            chunk_bytes=1 << 16,
        )
        for slots in args.slots:
            none, gate = [], []
            for _ in range(args.pairs):
                seconds, run = measure(loaded, slots, NoPrefetch(), profile, args.tokens)
                none.append(seconds)
                gate.append(measure(loaded, slots, Gate(), profile, args.tokens)[0])
            trace, gain = run.recorder.trace({}), paired_ratio(none, gate)
            ideal = [
                simulate(trace, run.cache, prefetcher, profile).tpot_s
                for prefetcher in (NoPrefetch(), Gate())
            ]
            promised = ideal[0] / ideal[1]
            print(
                f"{load:>10} {slots:>5} | {1e3 * median(none):7.3f}  {1e3 * median(gate):7.3f} | "
                f"{gain} | {promised:.3f}x | {gain.median / promised:.2f}"
            )


if __name__ == "__main__":
    main()
