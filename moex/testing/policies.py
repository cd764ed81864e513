"""The contract checker of eviction policies, for authors of plug-ins.

    from moex.testing import check_policy, check_prefetcher
    check_policy(lambda: MyPolicy(window=8))

They return nothing when the contract is kept, and raise an AssertionError that names the broken
rule and the access at which it broke.
"""

from __future__ import annotations

import pickle
import random
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from moex.cache.base import CachePolicy
from moex.cache.belady import Belady
from moex.cache.limits import POOLS
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.prefetch.previous import Previous
from moex.testing.prefetchers import global_streams
from moex.types import DECODE, PREFILL, Access, Expert, Future, Geometry, Plan, Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moex.cache.core import ExpertCache
    from moex.types import Now, Scope

GEOMETRY = Geometry(layers=3, experts=12, top_k=3, hidden=8, intermediate=8, expert_bytes=384)
SLOTS = (3, 7)
PASSES = 30


def check_policy(factory: Callable[[], CachePolicy]) -> None:
    """Replay constructed and random traces with the policy and check its contract.

    Its victims are among the candidates, which it does not change; the same calls give the same
    plans after a reset, in a copy and after pickling; global random streams are left alone;
    residents never exceed the slots; no trace is served with fewer loads than Belady with bypass
    needs. All of it with a pool per layer and a global one, with prefetches between the visits, and
    with visits that demand more experts than there are slots.

    Args:
        factory: builds a fresh policy; called many times.

    Raises:
        AssertionError: the rule that broke, and the access.
    """
    for name, accesses in _traces().items():
        for pool in POOLS:
            for slots in SLOTS:
                check = _Check(factory, f"trace {name}, pool {pool}, {slots} slots", accesses)
                check.replays(pool, slots)
                if name != "prefill":
                    check.optimum(pool, slots)


def _broken(name: str, rule: str, where: str, access: Access | None) -> AssertionError:
    at = f" at access {access.clock} (layer {access.layer})" if access else ""
    return AssertionError(f"{name}: {rule}{at}, {where}")


class _Check:
    """The checks on one trace."""

    def __init__(
        self, factory: Callable[[], CachePolicy], where: str, accesses: list[Access]
    ) -> None:
        self.factory, self.where, self.accesses = factory, where, accesses
        self.future = Future(accesses)
        self.name = type(factory()).__name__

    def broken(self, rule: str, access: Access | None = None) -> AssertionError:
        return _broken(self.name, rule, self.where, access)

    def cache(self, policy: CachePolicy, pool: str, slots: int) -> ExpertCache:
        future = self.future if "future" in policy.needs else None
        watched = _Watched(policy, self.where)
        decisions = Decisions(watched, Memory(slots, pool=pool), Previous(), seed=7)
        return decisions.build(GEOMETRY, future=future)

    def replays(self, pool: str, slots: int) -> None:
        """Check that equal calls give equal plans: repeated, after reset, copied and pickled."""
        streams = global_streams()
        cache = self.cache(self.factory(), pool, slots)
        plans = self.replay(cache)
        if streams != global_streams():
            raise self.broken("it used a global random stream; use random.Random(scope.seed)")
        self.same(plans, self.replay(self.cache(self.factory(), pool, slots)), "a second instance")
        cache.reset()
        self.same(plans, self.replay(cache), "the same cache after reset()")
        if pool == "global":  # one pool: the used instance itself can be started again
            cache.prototype.shared = True  # type: ignore[attr-defined]
            for _ in range(2):
                cache.reset()
                self.same(plans, self.replay(cache), "its own reset(), which leaks old state,")
        self.copies(plans, self.cache(self.factory(), pool, slots))

    def copies(self, plans: list[list[Plan]], cache: ExpertCache) -> None:
        """Stop half way, copy the cache, and continue with the copies."""
        half = len(self.accesses) // 2
        self.replay(cache, stop=half)
        try:
            pickled = pickle.loads(pickle.dumps(cache))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            rule = f"it cannot be pickled ({error}); avoid lambdas and local classes"
            raise self.broken(rule) from error
        for copied, how in ((deepcopy(cache), "deepcopy"), (pickled, "pickling")):
            self.same(plans[half:], self.replay(copied, half), how)

    def replay(
        self, cache: ExpertCache, start: int = 0, stop: int | None = None, prefetches: bool = True
    ) -> list[list[Plan]]:
        """Return all plans of each visit from `start` to `stop`."""
        capacity = int(cache.slots * (GEOMETRY.layers if cache.pool == "global" else 1))
        plans = []
        for access in self.accesses[start:stop]:
            try:
                visit = list(cache.request(access))
                if prefetches:
                    predictions = list(_prefetches(access))
                    cache.forecast(predictions, access)
                    visit.append(cache.prefetch(predictions, access.clock))
            except Exception as error:
                error.add_note(str(self.broken("it failed", access)))
                raise
            if len(cache.residents(access.layer)) > capacity:
                raise self.broken("more residents than slots", access)
            plans.append(visit)
        return plans

    def same(self, ours: list[list[Plan]], theirs: list[list[Plan]], how: str) -> None:
        offset = len(self.accesses) - len(ours)
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            if pair[0] != pair[1]:
                raise self.broken(f"{how} gave other plans", self.accesses[offset + number])

    def optimum(self, pool: str, slots: int) -> None:
        """Check that without prefetches the policy loads no less than Belady with bypass."""
        decisions = Decisions(Belady(bypass=True), Memory(slots, pool=pool))
        best = decisions.build(GEOMETRY, future=self.future)
        cache = self.cache(self.factory(), pool, slots)
        loads = [
            sum(len(plan.loads) for visit in self.replay(each, prefetches=False) for plan in visit)
            for each in (cache, best)
        ]
        if loads[0] < loads[1]:
            raise self.broken(f"{loads[0]} loads, but {loads[1]} are the fewest possible")


class _Watched(CachePolicy):
    """Passes every call on to the policy, and checks the results."""

    def __init__(self, policy: CachePolicy, where: str) -> None:
        self.policy, self.where = policy, where
        self.bypass, self.needs = policy.bypass, policy.needs  # type: ignore[misc]
        self.shared = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watched:
        if self.shared:
            return self
        twin = copy(self)
        twin.policy = deepcopy(self.policy, memo)
        return twin

    def broken(self, rule: str) -> AssertionError:
        return _broken(type(self.policy).__name__, rule, self.where, self.access)

    def reset(self, scope: Scope) -> None:
        self.policy.reset(scope)

    def on_visit(self, access: Access) -> None:
        self.access = access
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
        before = list(candidates)
        choice = self.policy.victim(candidates, now)
        if choice not in before:
            raise self.broken(f"victim {choice} is not among the candidates")
        if list(candidates) != before:
            raise self.broken("it changed the list of candidates")
        return choice


def _prefetches(access: Access) -> Iterator[Prediction]:
    """Yield two prefetches for the next layer, about half of them right, from the clock."""
    layer = (access.layer + 1) % GEOMETRY.layers
    for number in (access.clock % GEOMETRY.experts, (access.clock * 5) % GEOMETRY.experts):
        yield Prediction(Expert(layer, number), 1.0)


def _traces() -> dict[str, list[Access]]:
    """Return constructed traces (scan larger than the pool, hot set, shift) and random ones."""
    draws = random.Random(5)
    layers, experts, top_k = GEOMETRY[:3]
    everyone = range(experts)

    def scan(pass_: int) -> list[int]:
        return [(pass_ * top_k + offset) % experts for offset in range(top_k)]

    def hot(pass_: int) -> list[int]:
        return [0, 1, 2 + pass_ % (experts - 2)]

    def shift(pass_: int) -> list[int]:
        return draws.sample(everyone[:6] if pass_ < PASSES // 2 else everyone[6:], top_k)

    def uniform(pass_: int) -> list[int]:
        return draws.sample(everyone, top_k)

    def prefill(pass_: int) -> list[int]:
        return draws.sample(everyone, draws.randint(top_k, experts) if pass_ % 10 == 0 else top_k)

    return {
        shape.__name__: [
            _access(number, shape(number // layers), draws, wide=shape is prefill)
            for number in range(PASSES * layers)
        ]
        for shape in (scan, hot, shift, uniform, prefill)
    }


def _access(clock: int, chosen: list[int], draws: random.Random, wide: bool) -> Access:
    """Return a visit whose router row has its highest scores at the chosen experts."""
    position, layer = divmod(clock, GEOMETRY.layers)
    scores = [draws.random() / 10 for _ in range(GEOMETRY.experts)]
    for rank, index in enumerate(chosen):
        scores[index] = 1 / (rank + 2)
    phase = PREFILL if wide and position % 10 == 0 else DECODE
    return Access(clock, position, layer, phase, tuple(chosen), tuple(scores))
