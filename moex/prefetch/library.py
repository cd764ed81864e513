"""Layers x experts maps of past passes or requests, and those most like the running one.

Shared by prefetchers that look for the past that resembles the present.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from moex.types import Geometry


class Library:
    """At most `capacity` maps; when it is full, a new map replaces the one most like it.

    Rows are kept at unit length. Two maps are as alike as the mean cosine of their rows, over the
    layers that the running map has so far.
    """

    def __init__(self, geometry: Geometry, capacity: int) -> None:
        self.maps = np.zeros((geometry.layers, capacity, geometry.experts), np.float32)
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Begin a new running map, without any row."""
        layers, capacity, experts = self.maps.shape
        self.running = np.zeros((layers, experts), np.float32)
        self.alike = np.zeros((layers, capacity), np.float32)

    def note(self, layer: int, row: ArrayLike) -> None:
        """Set a row of the running map [experts]; it has a positive value."""
        values = np.asarray(row, np.float32)
        unit = values / np.sqrt(values @ values)
        self.running[layer] = unit
        self.alike[layer, : self.count] = self.maps[layer, : self.count] @ unit

    def nearest(self, number: int = 1) -> NDArray[np.float32] | None:
        """Return the mean of the maps most like the running one [layers, experts]; None: no map."""
        if not self.count:
            return None
        order = np.argsort(-self.alike[:, : self.count].sum(0), kind="stable")
        found: NDArray[np.float32] = self.maps[:, order[:number]].mean(1)
        return found

    def keep(self) -> None:
        """Keep the running map as a map of the past, and begin a new one."""
        slot = self.count
        if self.count == self.maps.shape[1]:
            slot = int(self.alike.sum(0).argmax())
        self.count = max(self.count, slot + 1)
        self.maps[:, slot] = self.running
        self.begin()
