"""How good are the victims? Rank of each by its true next use, beside the hit rate it led to.

    python experiments/03_learned_reuse/victims.py [cache ...] [--slots 8] [--sequences 12]

On the recorded gpt-oss-20b routing. `best`: share of evictions that took a candidate of farthest
next use; `rank`: mean share of candidates that would have been a better choice (random: about
half). Regression quality is not reported on purpose: it does not say which expert should leave.
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy
from moex.cache.core import ExpertCache
from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Scope

EXPERIMENTS = Path(__file__).resolve().parents[1]
golden = runpy.run_path(str(EXPERIMENTS / "01_replay_conformance/golden.py"))
build = runpy.run_path(str(EXPERIMENTS / "02_replay_speed/speed.py"))["build"]


class Judged(CachePolicy):
    """Passes every call on and ranks the answers; all pools write into one book."""

    def __init__(self, policy: CachePolicy, book: list[float]) -> None:
        self.policy, self.book, self.bypass = policy, book, policy.bypass

    def __deepcopy__(self, memo: dict[int, object]) -> Judged:
        return Judged(type(self.policy)(**vars(self.policy)), self.book)

    def reset(self, scope: Scope) -> None:
        self.future = scope.future
        self.policy.reset(scope)

    def on_visit(self, access: Access) -> None:
        self.policy.on_visit(access)

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        self.policy.on_access(expert, now, hit)

    def on_insert(self, expert: Expert, now: Now) -> None:
        self.policy.on_insert(expert, now)

    def on_evict(self, expert: Expert, now: Now) -> None:
        self.policy.on_evict(expert, now)

    def admit(self, expert: Expert, now: Now) -> bool:
        return self.policy.admit(expert, now)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        choice = self.policy.victim(candidates, now)
        if self.future is not None and len(candidates) > 1:
            waits = [self.future.next_use(expert, now.clock) for expert in candidates]
            chosen = self.future.next_use(choice, now.clock)
            self.book.append(sum(wait > chosen for wait in waits) / (len(waits) - 1))
        return choice


def main() -> None:
    """Print one line a policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("caches", nargs="*", metavar="cache")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=12)
    options = parser.parse_args()
    trace = golden["load"](options.sequences)
    future = trace.future()
    names = ["random", "lru", "lfu", "lfu_aged", "lfru", "arc", "lhd", "learned", "belady"]
    print("cache         hit rate   best   rank   evictions")
    for name in options.caches or names:
        book: list[float] = []
        judged = Judged(build(name), book)
        report = simulate(
            trace, ExpertCache(judged, trace.geometry, options.slots, future=future), cold=True
        )
        best = sum(rank == 0 for rank in book) / len(book)
        rank = sum(book) / len(book)
        print(
            f"{name:<12} {report.hit_rate:9.4f} {best:6.3f} {rank:6.3f} {len(book):11}", flush=True
        )


if __name__ == "__main__":
    main()
