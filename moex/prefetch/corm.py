"""Coarse to fine: which experts of the next layer, and which of their neurons."""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)


@dataclass
class Corm(Prefetcher):
    """Let `coarse` name experts of the next layer, and the run's selector guess their neurons.

    CORM-like: the text of CORM (OpenReview qN7PEomATC) is not public, this is our design. The same
    selector decides at the layer which neurons count, so a wrong guess costs bytes, never a logit.
    Whole experts are named in prefill, and always with `sparsity=none`: then it saves no byte.

    Args:
        coarse: names experts, one layer ahead.

    Raises:
        ValueError: a `coarse` that looks further.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead", "hidden", "chosen"})

    coarse: ScoredPrefetcher

    def __post_init__(self) -> None:
        if self.coarse.depth != 1:
            raise ValueError(
                f"prefetch.coarse.depth={self.coarse.depth}: neurons are guessed one layer ahead; "
                "expected 1"
            )

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Meet the model and the selector of this run."""
        self.coarse.bind(geometry, model, selector)
        self.selector, self.device_bytes = selector, self.coarse.device_bytes
        if selector is None:
            log.warning("moex: prefetch=corm sparsity=none is exact and saves no byte of an expert")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget what was seen."""
        self.coarse.reset(geometry, seed)

    def observe(self, observation: Observation) -> None:
        """Let `coarse` see the visit."""
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
