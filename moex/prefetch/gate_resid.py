"""Gate lookahead with the mean change of the hidden state added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class GateResid(Linear):
    """Ask the next layers' routers, after adding what the layers between add on average.

    The residual correction of DALI: the mean over calibration text of (router input of layer
    l + d) - (router input of layer l), found by `mode=train`. A router being linear, the mean
    becomes a bias. A score is the share of the router's mass, as with `prefetch=gate`.
    """

    kind: ClassVar[str] = "gate_resid"

    def scores(self, logits: Tensor) -> Tensor:
        """Shares of the routers' mass."""
        return logits.softmax(-1)
