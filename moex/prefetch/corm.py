"""Coarse to fine: predicts experts of the next layer, then neurons of these experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moex.prefetch.base import Prefetcher
from moex.types import PREFILL

if TYPE_CHECKING:
    from pathlib import Path

    from moex.prefetch.base import Observation
    from moex.prefetch.scored import ScoredPrefetcher
    from moex.types import Geometry, Prediction


@dataclass
class Corm(Prefetcher):
    """Predict experts of the next layer with `coarse`, and their neurons with the run's selector.

    CORM-like: the text of CORM (OpenReview qN7PEomATC) is not public, this is our design. The same
    selector chooses the neurons at the layer itself, so a wrong prediction costs bytes and changes
    no logit. Whole experts are predicted in prefill, and always with `sparsity=none`, which saves
    no bytes.

    Args:
        coarse: predicts experts, one layer ahead.

    Raises:
        ValueError: a `coarse` of another depth.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead", "hidden", "chosen"})
    trainer: ClassVar[str] = "moex.train.neurons.NeuronTrainer"

    coarse: ScoredPrefetcher

    def __post_init__(self) -> None:
        if self.coarse.depth != 1:
            raise ValueError(
                f"prefetch.coarse.depth={self.coarse.depth}: neurons are predicted one layer "
                "ahead; expected 1"
            )

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Prepare for the model and the selector of this run."""
        self.coarse.bind(geometry, model, selector)
        self.selector, self.device_bytes = selector, self.coarse.device_bytes

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all state."""
        self.coarse.reset(geometry, seed)

    def observe(self, observation: Observation) -> None:
        """Pass the visit on to `coarse`."""
        self.coarse.observe(observation)

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the next layer's experts, with the rows that any token of the visit may need."""
        named = list(self.coarse.predict(observation))
        if not named or self.selector is None or observation.access.phase == PREFILL:
            return named
        experts = [prediction.expert.index for prediction in named]
        layer = observation.access.layer + 1
        chosen = self.selector.expect(observation.hidden, layer, experts)
        if chosen is None:
            return named
        any_token = chosen[:, 0] if chosen.shape[1] == 1 else chosen.any(1)
        bits = np.packbits(any_token.cpu().numpy(), axis=-1, bitorder="little")
        return [p._replace(rows=row.tobytes()) for p, row in zip(named, bits, strict=True)]
