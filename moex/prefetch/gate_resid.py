"""Gate lookahead, corrected by the mean change of the hidden state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class GateResid(Linear):
    """Apply the next layers' routers, after adding the mean change of the layers between.

    The residual correction of DALI: the mean over calibration text of (router input of layer
    l + d) - (router input of layer l), found by `mode=train`. A router being linear, the mean
    becomes a bias. A score is the router's softmax, as with `prefetch=gate`.
    """

    trainer: ClassVar[str] = "moex.train.experts.ResidTrainer"

    def scores(self, logits: Tensor) -> Tensor:
        """Return the routers' softmax, of the shape of `logits`."""
        return logits.softmax(-1)
