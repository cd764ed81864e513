"""How good are the victims? Rank of each by its true next use, beside the hit rate it led to.

    python experiments/studies/learned_reuse/victims.py [cache ...] [--slots 8] [--sequences 12]

On the recorded gpt-oss-20b routing. `best`: share of evictions that took a candidate of farthest
next use; `rank`: mean share of candidates that would have been a better choice (random: a little
under half, since equals are no better). Regression quality is not reported on purpose: it does not
say which expert should be evicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.benchmarks.replay_conformance import golden
from experiments.benchmarks.replay_speed.speed import build
from experiments.harness import arguments
from moex.cache.core import ExpertCache
from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.cache.base import CachePolicy
    from moex.types import Expert, Now, Scope


def ranked(policy: CachePolicy, ranks: list[float]) -> CachePolicy:
    """The same policy, whose pools append the rank of every victim to one list."""
    kind: type[CachePolicy] = type(policy)

    class Ranked(kind):  # type: ignore[misc,valid-type]
        def reset(self, scope: Scope) -> None:
            self.next_use = scope.future.next_use
            super().reset(scope)

        def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
            choice = super().victim(candidates, now)
            if len(candidates) > 1:
                waits = [self.next_use(expert, now.clock) for expert in candidates]
                better = sum(wait > self.next_use(choice, now.clock) for wait in waits)
                ranks.append(better / (len(waits) - 1))
            return choice

    return Ranked(**vars(policy))


def main() -> None:
    """Print one line a policy."""
    options = arguments(
        __doc__, tiny={"caches": ["lru"], "sequences": 1}, _caches=[], slots=8, sequences=12
    )
    trace = golden.load(options.sequences)
    future = trace.future()
    names = ["random", "lru", "lfu", "lfu_aged", "lfru", "arc", "lhd", "learned", "belady"]
    print("cache         hit rate   best   rank   evictions")
    for name in options.caches or names:
        ranks: list[float] = []
        policy = ranked(build(name), ranks)
        cache = ExpertCache(policy, trace.geometry, options.slots, future=future)
        report = simulate(trace, cache, cold=True)
        best = sum(rank == 0 for rank in ranks) / len(ranks)
        rank = sum(ranks) / len(ranks)
        print(
            f"{name:<12} {report.hit_rate:9.4f} {best:6.3f} {rank:6.3f} {len(ranks):11}", flush=True
        )


if __name__ == "__main__":
    main()
