"""Sets of rows as integers (bit j is neuron j), and the resident rows of one expert."""

from __future__ import annotations


def bitmap(rows: bytes) -> int:
    """Return the rows of a `Load` or `Prediction` as an integer."""
    return int.from_bytes(rows, "little")


def lowest(rows: int, count: int) -> int:
    """Return the `count` lowest members of a bitmap."""
    if rows.bit_count() <= count:
        return rows
    low, high = 0, rows.bit_length()
    while high - low > 1:
        middle = (low + high) // 2
        if (rows & ((1 << middle) - 1)).bit_count() <= count:
            low = middle
        else:
            high = middle
    return rows & ((1 << low) - 1)


class ResidentRows:
    """The rows of one expert that are in its slot, in the order of their last use."""

    __slots__ = ("recent", "rows")

    def __init__(self) -> None:
        self.recent: list[int] = []
        self.rows = 0
        """All resident rows, as a bitmap."""

    def take(self, wanted: int, capacity: int, hot: int) -> int:
        """Use the wanted rows, evicting the oldest; return those that must be loaded.

        Hot rows are evicted only when no others are left.
        """
        present = self.rows
        kept = [generation & ~wanted for generation in self.recent]
        self.recent = [wanted, *(generation for generation in kept if generation)]
        self.rows = present | wanted
        over = self.rows.bit_count() - capacity
        if over > 0:
            for spared in (hot, 0) if hot else (0,):
                over = self._evict(over, spared)
            self.recent = [generation for generation in self.recent if generation]
        return wanted & ~present

    def _evict(self, over: int, spared: int) -> int:
        """Evict `over` rows, oldest first, but no spared ones; return how many are left over."""
        for number in range(len(self.recent) - 1, 0, -1):
            if over <= 0:
                break
            gone = lowest(self.recent[number] & ~spared, over)
            self.recent[number] &= ~gone
            self.rows &= ~gone
            over -= gone.bit_count()
        return over
