"""Experts that one layer's visit demands and the next layer's visit computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Load

NOBODY: frozenset[Expert] = frozenset()


class Deferral:
    """The experts that are deferred, and the slots that only they hold.

    They stay where they are until the next layer's visit has computed them: as residents that are
    no victims, or, if the policy did not admit them, in slots that nobody else gets.
    """

    def __init__(self) -> None:
        self.due: tuple[tuple[Expert, int], ...] = ()
        """Experts and slots that the next visit computes."""
        self.kept: list[int] = []
        """Those of the slots that are no resident's."""
        self.pinned = NOBODY
        """Experts that must not be evicted."""

    def begin(self, layer: int) -> list[int]:
        """Begin a visit; return the slots of what was deferred to a visit that never came."""
        if self.due and self.due[0][0].layer + 1 != layer:
            return self.clear()
        if self.pinned:
            self.pinned = frozenset([expert for expert, _ in self.due])
        return []

    def end(self, loads: Sequence[Load], released: list[int]) -> list[int]:
        """End a visit with the loads that it defers.

        Args:
            loads: of its last wave.
            released: slots that are free after that wave.

        Returns:
            the slots that are free after it now.
        """
        if not loads and not self.due:
            return released
        before, computed = self.kept, self.pinned
        self.due = tuple([(load.expert, load.slot) for load in loads])
        later = {slot for _, slot in self.due}
        self.kept = [slot for slot in released if slot in later]
        self.pinned = computed.union([expert for expert, _ in self.due])
        return [slot for slot in released if slot not in later] + before

    def clear(self) -> list[int]:
        """Forget all that is deferred; return the slots that are free now."""
        kept, self.due, self.kept, self.pinned = self.kept, (), [], NOBODY
        return kept
