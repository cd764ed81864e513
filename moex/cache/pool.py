"""The residents managed by one policy: those of a layer, or of all layers."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from moex.cache.deferral import NOBODY
from moex.types import Eviction, Scope

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Sequence

    from moex.cache.base import CachePolicy
    from moex.types import Expert, Future, Geometry, Now


class Pool:
    """Residents of one pool, oldest last use first, and the policy that evicts them.

    A pool without slots has nothing to decide, so its policy is not asked.
    """

    def __init__(self, policy: CachePolicy, capacity: int, layers: Sequence[int]) -> None:
        self.policy, self.capacity, self.layers = policy, capacity, layers
        self.residents: dict[Expert, int] = {}
        # A hook that a policy does not override is not called at all: replay is this loop.
        self.on_visit = self._hook("on_visit")
        self.on_access = self._hook("on_access")
        self.on_insert = self._hook("on_insert")
        self.on_evict = self._hook("on_evict")
        self.admit = self._hook("admit")

    def set_aside(self, members: list[Expert]) -> dict[Expert, int]:
        """Remove a visit's members from the residents while victims are chosen; return them."""
        take, aside = self.residents.pop, {}
        for expert in members:
            slot = take(expert, None)
            if slot is not None:
                aside[expert] = slot
        return aside

    def put_back(self, members: dict[Expert, int], ordered: list[Expert]) -> None:
        """Add the members as the last used; those of one visit tie and are ordered by index."""
        residents, find = self.residents, members.get
        for expert in ordered:
            slot = find(expert)
            if slot is not None:
                residents[expert] = slot

    def admit_and_evict(
        self,
        members: dict[Expert, int],
        entering: list[tuple[Expert, int]],
        now: Now,
        free: deque[int],
        pinned: frozenset[Expert] = NOBODY,
    ) -> tuple[list[Eviction], list[int]]:
        """Admit a wave's loaded experts and choose victims: (evictions, slots free after the wave).

        `members` are the visit's residents, set aside; admitted experts are added to them. Slots
        that are free at once are appended to `free`. Those in `pinned` are no victims.
        """
        residents, policy = self.residents, self.policy
        room = self.capacity - len(residents) - len(members)
        evictions: list[Eviction] = []
        released: list[int] = []
        others = None if policy.bypass else list(residents)
        if pinned and others:
            others = [other for other in others if other not in pinned]
        for expert, slot in entering:
            if not self.capacity or (self.admit and not self.admit(expert, now)):
                released.append(slot)
                continue
            if room > 0:
                room -= 1
            else:
                candidates = [*residents, *members, expert] if others is None else others
                if pinned and others is None:
                    candidates = [each for each in candidates if each not in pinned]
                victim = policy.victim(candidates, now) if candidates else expert
                if victim == expert:
                    released.append(slot)
                    continue
                if others is not None:
                    others.remove(victim)
                if self.on_evict:
                    self.on_evict(victim, now)
                # A bypassed member is still read by this wave: its slot is free only after it.
                group, into = (members, released) if victim in members else (residents, free)
                evictions.append(Eviction(victim, group[victim]))
                into.append(group.pop(victim))
            members[expert] = slot
            if self.on_insert:
                self.on_insert(expert, now)
        return evictions, released

    def admit_absent(
        self,
        experts: list[Expert],
        running: list[Expert],
        now: Now,
        free: deque[int],
        pinned: frozenset[Expert],
    ) -> tuple[dict[Expert, int], list[Eviction]]:
        """Admit experts that the running visit did not demand: (slots of those loaded, evictions).

        To the policy they are demanded and absent. Victims are neither `running` nor `pinned` nor
        admitted here; the candidates keep their order, before `running`.
        """
        members, pinned = self.set_aside(running), pinned.union(running)
        loaded: dict[Expert, int] = {}
        evictions: list[Eviction] = []
        for expert in experts:
            if not free:
                break
            slot = free.popleft()
            if self.on_access:
                self.on_access(expert, now, False)
            evicted, refused = self.admit_and_evict(members, [(expert, slot)], now, free, pinned)
            if refused:
                free.appendleft(slot)
            else:
                loaded[expert], pinned = slot, pinned.union([expert])
                evictions += evicted
        self.put_back(members, [*loaded, *running])
        return loaded, evictions

    def _hook(self, name: str) -> Callable[..., bool | None] | None:
        asked = self.capacity and name in self.policy.hooks()
        return getattr(self.policy, name) if asked else None


def pools(
    prototype: CachePolicy,
    slots: Sequence[int],
    kind: str,
    geometry: Geometry,
    seed: int,
    future: Future | None,
) -> list[Pool]:
    """Return the pool of every layer, empty, each with a fresh copy of the policy.

    Args:
        prototype: the policy.
        slots: residents of every layer [layers].
        kind: "layer", or "global" for one pool of all their slots.
        geometry: of the model or trace.
        seed: for policies that use random numbers.
        future: the recorded visits, for policies that need them.
    """
    found: list[Pool] = []
    for scope in scopes(slots, kind, geometry, seed, future):
        pool = Pool(deepcopy(prototype), scope.capacity, scope.layers)
        if scope.capacity:
            pool.policy.reset(scope)
        found.extend([pool] * len(scope.layers))
    return found


def scopes(
    slots: Sequence[int], kind: str, geometry: Geometry, seed: int, future: Future | None
) -> list[Scope]:
    """Return what the policy of every pool starts with; the arguments are those of `pools`."""
    width = 1 if kind == "layer" else geometry.layers
    spans = [range(first, first + width) for first in range(0, geometry.layers, width)]
    rest = geometry.experts, geometry.top_k
    return [
        Scope(sum(slots[la] for la in span), span, *rest, seed * 1_000_003 + at, future)
        for at, span in enumerate(spans)
    ]
