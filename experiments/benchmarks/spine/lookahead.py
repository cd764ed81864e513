"""Gate lookahead behind an emulated link: how much of its possible gain arrives.

For load times of 0.5, 1, 2 and 4 layer times and 2 to 4 slots of 8, `prefetch=gate` against
`prefetch=none`, live and in interleaved pairs, beside the gain that a replay of the run's own trace
promises: the same plans on a clock, with the computing costs measured here.

python experiments/benchmarks/spine/lookahead.py [--pairs 7] [--loads 1 2] [--slots 3]
"""

import argparse
from dataclasses import replace

import torch

from analysis.paired import paired_ratio
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1, 2, 4])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 3, 4])
    args = parser.parse_args()
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
            middle = args.pairs // 2
            print(
                f"{load:>10} {slots:>5} | {1e3 * sorted(none)[middle]:7.3f}  "
                f"{1e3 * sorted(gate)[middle]:7.3f} | {gain} | {promised:.3f}x | "
                f"{gain.median / promised:.2f}"
            )


if __name__ == "__main__":
    main()
