"""Policies in array form: the same rules run interpreted, and compiled where a trace is replayed.

Such a policy keeps its state in named lists and states its rules as small pure functions:

    @dataclass
    class LFRU(ArrayPolicy):
        def state(self, scope):
            return {"uses": [0] * scope.size, "last": [0] * scope.size}

        @staticmethod
        def used(state, expert, now, hit):
            state.uses[expert] += 1
            state.last[expert] = now.clock

        @staticmethod
        def score(state, expert, now):
            return state.uses[expert] / (now.clock - state.last[expert])

`expert` is a number, from 0 to `scope.size - 1`; `now` has `clock`, `position` and `layer` (counted
from the pool's first). In a compiled replay the lists are numpy arrays. So a rule uses numbers,
indices, loops and other plain functions; a list that starts with whole numbers keeps whole numbers,
and powers are taken of floats.
"""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from moex.cache.base import HOOKS, CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Scope


class Moment(NamedTuple):
    """The logical time of a decision, as a rule sees it; `layer` is counted from the pool's."""

    clock: int
    position: int
    layer: int


class ArrayPolicy(CachePolicy):
    """Evicts the expert of lowest score; of equals, the one used longest ago, then lowest index.

    A subclass overrides the rules that it needs; without any it evicts the least recently used.
    """

    RULES: ClassVar = {
        "visited": "on_visit",
        "used": "on_access",
        "entered": "on_insert",
        "evicted": "on_evict",
        "admits": "admit",
    }
    """The hook of `CachePolicy` that each rule answers."""

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return the state of an empty pool: lists of numbers by name, hyper-parameters too.

        A policy that needs the future is given `next_use` beside: the clock of each expert's next
        use as of its last one, infinite if there is none.
        """
        return {}

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """Observe that a visit begins, before its experts are `used`."""

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Observe one demanded expert; `hit`: it was resident (an unused prefetch is not)."""

    @staticmethod
    def entered(state: Any, expert: int, now: Moment) -> None:
        """Observe that an expert enters a slot."""

    @staticmethod
    def evicted(state: Any, expert: int, now: Moment) -> None:
        """Observe that an expert is evicted from its slot."""

    @staticmethod
    def admits(state: Any, expert: int, now: Moment) -> bool:
        """Return whether a loaded expert may enter a slot."""
        return True

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> Any:
        """Return the value of keeping an expert, as a number."""
        return 0

    @classmethod
    def overrides(cls, name: str) -> bool:
        """Whether the rule or method of this name is not that of `ArrayPolicy`."""
        return getattr(cls, name) is not getattr(ArrayPolicy, name)

    @classmethod
    def hooks(cls) -> set[str]:
        """Return the hooks that the cache must call."""
        found = {hook for rule, hook in cls.RULES.items() if cls.overrides(rule)}
        found |= {hook for hook in HOOKS if cls.overrides(hook)}
        return found | ({"on_access"} if "future" in cls.needs else set())

    def arrays(self, scope: Scope) -> dict[str, Any]:
        """Return the state of an empty pool, with the future's where it is needed."""
        return self.state(scope) | self._future(scope)

    def _future(self, scope: Scope) -> dict[str, Any]:
        return {"next_use": [inf] * scope.size} if "future" in self.needs else {}

    def reset(self, scope: Scope) -> None:
        """Start with an empty pool."""
        self.first, self.experts = min(scope.layers), scope.experts
        self.future = scope.future if "future" in self.needs else None
        self.lists = SimpleNamespace(**self.arrays(scope))
        self._now: Now | None = None

    def _number(self, expert: Expert) -> int:
        return (expert[0] - self.first) * self.experts + expert[1]

    def _at(self, now: Now) -> Moment:
        if now is not self._now:  # a visit has one
            self._now, self._moment = now, Moment(now[0], now[1], now[2] - self.first)
        return self._moment

    def on_visit(self, access: Access) -> None:
        """Follow the rule `visited`."""
        moment = Moment(access.clock, access.position, access.layer - self.first)
        self.visited(self.lists, moment)

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Follow the rule `used`."""
        number = (expert[0] - self.first) * self.experts + expert[1]
        if self.future is not None:
            self.lists.next_use[number] = self.future.next_use(expert, now[0])
        self.used(self.lists, number, self._at(now), hit)

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Follow the rule `entered`."""
        self.entered(self.lists, self._number(expert), self._at(now))

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Follow the rule `evicted`."""
        self.evicted(self.lists, self._number(expert), self._at(now))

    def admit(self, expert: Expert, now: Now) -> bool:
        """Follow the rule `admits`."""
        return self.admits(self.lists, self._number(expert), self._at(now))

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the first candidate of lowest score."""
        if not self.overrides("score"):
            return candidates[0]
        score, lists, moment = self.score, self.lists, self._at(now)
        first, experts = self.first, self.experts
        scores = [
            score(lists, (layer - first) * experts + index, moment) for layer, index in candidates
        ]
        return candidates[scores.index(min(scores))]
