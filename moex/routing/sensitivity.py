"""Experts are left out where a layer is insensitive to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moex.routing.base import NONE, RoutingPolicy, check_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView
    from moex.types import Geometry


@dataclass
class Sensitivity(RoutingPolicy):
    """Drop a token's tail if (share of the tail)^2 * sensitivity < threshold.

    Zhong et al. 2024 (AdapMoE), arXiv 2408.10284, for top-2: the second expert is dropped if
    (1 - alpha)^2 * s <= T, where alpha is the first one's share and s the layer's sum of Fisher
    information on calibration text. moex computes no Fisher information: s comes from a file. With
    more experts the largest tail that passes is dropped. Strictly below T, so that 0 drops none.

    Args:
        threshold: T; 0 is the model's own routing.
        sensitivities: a JSON file with a list of one number a layer; None: 1 for every layer.
    """

    threshold: float = 0.05
    sensitivities: str | None = None

    def __post_init__(self) -> None:
        check_range("routing.threshold", self.threshold, 0)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Read the sensitivities."""
        self.by_layer = [1.0] * geometry.layers
        if self.sensitivities is not None:
            self.by_layer = _read(Path(self.sensitivities), geometry.layers)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Sum shares from the lightest; the heaviest always stays."""
        order = np.argsort(view.shares, axis=1, kind="stable")
        tails = np.cumsum(np.take_along_axis(view.shares, order, 1), 1)
        light = tails**2 * self.by_layer[view.layer] < self.threshold
        light[:, -1] = False
        dropped = np.zeros(light.shape, np.bool_)
        np.put_along_axis(dropped, order, light, 1)
        return np.where(dropped, NONE, view.index)


def _read(path: Path, layers: int) -> list[float]:
    """Read one number, 0 or more, a layer."""
    try:
        found = json.loads(path.read_text())
        values = [float(each) for each in found]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"routing.sensitivities={path}: {error}; expected a JSON list of numbers, one a "
            "layer; try routing.sensitivities=null"
        ) from error
    if len(values) != layers or not all(0 <= each < np.inf for each in values):
        raise ValueError(
            f"routing.sensitivities={path}: holds {len(values)} numbers, of another model or below "
            f"0; expected {layers}, one a layer, 0 or more; try routing.sensitivities=null"
        )
    return values
