"""Three tiers: the disk, a cache of experts in host memory, the device.

The device decides as it does without a host tier. What the host tier sees are the device's loads,
in the order in which plans issue them, so that it decides alike live and in a replay.

`inclusive`: a load from the disk passes through the host tier and stays there until the host
tier's own policy evicts it, whatever becomes of it on the device.
`exclusive`: an expert that a visit demands leaves the host tier, and one that leaves the device
after a use enters it. A prefetch is taken out of it when it is used.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from moex.cache.core import ExpertCache
from moex.cache.limits import TIERS
from moex.cache.pool import Pool
from moex.paths import plug_in, plug_ins
from moex.types import PREFILL, Access, Demotion, Future, Now, Scope, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moex.cache.base import CachePolicy
    from moex.types import Expert, Geometry, Plan, Prediction

ABSTRACT = ("array_policy", "base")
"""Files of `moex/cache` that hold no policy of their own."""


def host_policy(word: str) -> CachePolicy:
    """Return the policy that `memory.host_policy` names, with its defaults.

    Raises:
        ValueError: there is none.
    """
    known = sorted({*plug_ins("cache", "Policy")} - {*ABSTRACT})
    if word not in known and "." not in word:
        raise ValueError(
            f"memory.host_policy={word}: expected one of {', '.join(known)}, or the dotted name of "
            "a class (package.module.Class); try memory.host_policy=lru"
        )
    policy: CachePolicy = plug_in("memory.host_policy", word, "cache", "Policy")()
    return policy


class HostTier:
    """The residents of host memory, shared by all layers, and the policy that evicts them.

    Args:
        policy: the prototype; the tier gets a copy of its own.
        geometry: of the model or trace.
        residents: experts that stay.
        staging: further slots, so that one that was just freed is not overwritten while a load
            still reads it.
        tiers: "inclusive" or "exclusive".
        seed: for policies that use random numbers.
        future: when the device will load which expert, for policies that need it (`load_future`).

    Raises:
        ValueError: a policy without what it needs.
    """

    def __init__(
        self,
        policy: CachePolicy,
        geometry: Geometry,
        residents: int,
        staging: int,
        tiers: str = TIERS[0],
        seed: int = 0,
        future: Future | None = None,
    ) -> None:
        if "future" in policy.needs and future is None:
            raise ValueError(
                f"memory.host_policy: {type(policy).__name__} needs the future of the device's "
                "loads, which a first pass records (mode=live, mode=simulate); here try "
                "memory.host_policy=lru"
            )
        self.policy, self.tiers = policy, tiers
        self.capacity, self.slots = residents, residents + staging
        self.exclusive = tiers == TIERS[1]
        rest = range(geometry.layers), geometry.experts, geometry.top_k
        self._scope = Scope(residents, *rest, seed, future)
        self.reset()

    def reset(self) -> None:
        """Discard all state."""
        scope = self._scope
        self._pool = Pool(deepcopy(self.policy), scope.capacity, scope.layers)
        self._pool.policy.reset(scope)
        self._free = deque(range(self.slots))

    @property
    def residents(self) -> list[Expert]:
        """The experts in host memory, oldest last use first."""
        return list(self._pool.residents)

    def load(self, expert: Expert, now: Now) -> Source:
        """Serve a load of the device; return where it comes from."""
        pool = self._pool
        if pool.on_visit:
            pool.on_visit(Access(*now, (expert.index,)))
        members = pool.set_aside([expert])
        if pool.on_access:
            pool.on_access(expert, now, bool(members))
        if members:
            pool.put_back(members, [expert])
            return Source(True, members[expert])
        return Source(False, -1 if self.exclusive else self.enter(expert, now))

    def enter(self, expert: Expert, now: Now) -> int:
        """Let an expert enter, unless the policy refuses it: its slot, or -1."""
        members: dict[Expert, int] = {}
        entering = [(expert, self._free.popleft())]
        _, released = self._pool.admit_and_evict(members, entering, now, self._free)
        self._free.extend(released)
        self._pool.put_back(members, [expert])
        return members.get(expert, -1)

    def leave(self, expert: Expert, now: Now) -> None:
        """Remove an expert that the device holds from now on."""
        for slot in self._pool.set_aside([expert]).values():
            self._free.append(slot)
            if self._pool.on_evict:
                self._pool.on_evict(expert, now)


class TieredCache(ExpertCache):
    """An `ExpertCache` whose plans say where loads come from; its arguments, and the host tier."""

    def __init__(self, *given: Any, host: HostTier, **named: Any) -> None:
        self.host: HostTier = host
        super().__init__(*given, **named)

    def reset(self) -> None:
        """Discard all state, of both tiers."""
        super().reset()
        self.host.reset()
        self._now, self._time = Now(0, 0, 0, PREFILL), LoadTime()
        self._leaving: list[tuple[Expert, int]] = []
        """Experts, and their slots, that leave the device when the running wave has ended."""

    def request(self, access: Access, needs: Sequence[int | None] = ()) -> Iterator[Plan]:
        """Yield the plan of each wave of this visit: `ExpertCache.request`, with sources."""
        self._now = Now(access.clock * LoadTime.STEP, *access[1:4])
        for plan in super().request(access, needs):
            plan = self._sourced(plan)
            if self.host.exclusive:
                for expert in (*(load.expert for load in plan.loads), *plan.prefetched):
                    self.host.leave(expert, self._now)
                plan = plan._replace(demoted=self._demote(plan))
            yield plan

    def prefetch(self, predictions: Iterable[Prediction], clock: int) -> Plan:
        """Admit predictions as `ExpertCache.prefetch` does."""
        return self._sourced(super().prefetch(predictions, clock))

    def _sourced(self, plan: Plan) -> Plan:
        """Add where the plan's loads come from."""
        if not plan.loads:
            return plan
        _, position, _, phase = self._now
        found = [
            self.host.load(expert, Now(self._time.next(plan.clock), position, expert.layer, phase))
            for expert in (load.expert for load in plan.loads)
        ]
        self._now = self._now._replace(clock=self._time.now)
        return plan._replace(sources=tuple(found))

    def _demote(self, plan: Plan) -> tuple[Demotion, ...]:
        """Move what left the device to the host tier.

        What the running wave still reads leaves when the next plan is issued: only then has it
        certainly arrived, and until then nothing is loaded into its slot.
        """
        reading = dict(zip(plan.hits, plan.slots, strict=True))
        reading |= {load.expert: load.slot for load in plan.loads}
        evicted = [(gone.expert, gone.slot) for gone in plan.evictions]
        gone = [*self._leaving, *(pair for pair in evicted if pair[0] not in reading)]
        self._leaving = [(e, slot) for e, slot in reading.items() if not self.holds(e)]
        found = []
        for expert, slot in gone:
            if self.holds(expert):
                continue  # loaded again meanwhile
            kept = self.host.enter(expert, self._now._replace(layer=expert.layer))
            if kept >= 0:
                found.append(Demotion(expert, slot, kept))
        return tuple(found)


class LoadTime:
    """The host tier's clock: loads, numbered within the visits that they belong to.

    So no two loads have the same time, and a run that is taken up again goes on with it.
    """

    STEP = 1 << 12

    def __init__(self) -> None:
        self._visit, self.now = -1, 0

    def next(self, clock: int) -> int:
        """Return the time of the next load, of the visit of this clock."""
        self.now = self.now + 1 if clock == self._visit else clock * self.STEP
        self._visit = clock
        return self.now


def load_future(plans: Iterable[Plan]) -> Future:
    """Return when the device loads which expert, from the plans of the same run."""
    time = LoadTime()
    return Future(
        Access(time.next(plan.clock), 0, load.expert.layer, "", (load.expert.index,))
        for plan in plans
        for load in plan.loads
    )


def described(cache: ExpertCache) -> dict[str, Any]:
    """Return the fields of a row that describe the host tier; none without one."""
    if not isinstance(cache, TieredCache):
        return {}
    host = cache.host
    return {
        "host_bytes": host.slots * cache.geometry.expert_bytes,
        "host_policy": type(host.policy).__name__,
        "tiers": host.tiers,
    }
