"""A trained low-rank neuron selector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from moex.predictors import lowrank, quantized_lowrank, trained
from moex.sparsity.active import active
from moex.sparsity.base import RULES, NeuronSelector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class Corm(NeuronSelector):
    """Select by a low-rank, four-bit estimate of every neuron's contribution.

    CORM-like: the text of CORM (OpenReview qN7PEomATC) is not public, so this is our own design.
    It estimates from the layer's own state ("late") or the previous layer's ("predicted"), rounded
    to bfloat16 whatever the model's dtype.

    Args:
        rule: "top": the best `fraction` of every token; "quantile": above the expert's threshold;
            "energy": the fewest with that share of the estimated squares.
        fraction: a share in (0, 1]; 1 selects all.
        mode: "late", "predicted" or "exact".
        prefill: "dense" or "masked".
        checkpoint: a file; None for the one in the model's folder or in the cache folder.
        rank: number of the checkpoint's strongest directions to keep: less memory, less recall;
            None for all.

    Raises:
        ValueError: a field outside its range.
    """

    rules: ClassVar[tuple[str, ...]] = RULES

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"
    checkpoint: str | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rule == "quantile":
            raise ValueError(
                "sparsity.rank: the thresholds of rule=quantile are those of the full rank; "
                "expected rule=top or rule=energy with a rank"
            )

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Read the checkpoint of this model."""
        kind = trained.kind_of(type(self))
        found = trained.read(kind, geometry, model, self.checkpoint, "sparsity")
        full = found.about["rank"]
        if self.rank is not None and (self.rank % 2 or not 0 < self.rank <= full):
            raise ValueError(
                f"sparsity.rank={self.rank}: expected an even number up to {full}, the "
                "checkpoint's rank"
            )
        factors: Any = lowrank.layers(geometry, full, found.about["width"])
        factors.load_state_dict(found.tensors)
        factors.requires_grad_(False)
        self.identity = found.identity
        table: dict[str, Tensor] = {}
        if self.rank not in (None, full):
            self.identity += f"-rank{self.rank}"
            factors = [lowrank.truncate(each, geometry, self.rank) for each in factors]
        self.factors = [quantized_lowrank.Lean(each, table) for each in factors]
        self.device_bytes = quantized_lowrank.held_bytes(self.factors)
        self._known: tuple[int, bool, Tensor] | None = None
        self._codes: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Return the neurons estimated to contribute most."""
        return self._select(hidden, layer, experts, early=bool(self.ahead(layer)))

    def expect(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Predict the same neurons one layer early."""
        return self._select(hidden, layer, experts, early=True)

    @torch.no_grad()
    def _select(
        self, hidden: Tensor, layer: int, experts: Sequence[int], early: bool
    ) -> Tensor | None:
        if self.mode == "exact" or self.fraction == 1:
            return None
        state = hidden.bfloat16()
        if not self._is_known(layer, early, state):
            # Reuse the masks of `expect` if `select` is called with the same state.
            self._known, self._masks = (layer, early, state.clone()), {}
            if self.factors[layer].device != state.device:
                self.factors[layer].to(state.device)
            self._codes = self.factors[layer].encode(state, early)
        missing = [expert for expert in experts if expert not in self._masks]
        if missing:
            found = self._active(layer, early, missing)
            self._masks.update(zip(missing, found, strict=True))
            if missing == list(experts):
                return found
        return torch.stack([self._masks[expert] for expert in experts])

    def _is_known(self, layer: int, early: bool, state: Tensor) -> bool:
        if self._known is None or self._known[:2] != (layer, early):
            return False
        known = self._known[2]
        return known.device == state.device and torch.equal(known, state)

    def _active(self, layer: int, early: bool, experts: list[int]) -> Tensor:
        assert self._codes is not None
        factors, cut = self.factors[layer], None
        scores = factors.estimate(self._codes, experts)
        if self.rule == "quantile":
            position = max(self.fraction * lowrank.GRID - 1, 0.0)
            low, share = int(position), position % 1
            cuts = factors.cuts[int(early), experts].double()
            cut = torch.lerp(cuts[:, low], cuts[:, min(low + 1, lowrank.GRID - 1)], share)
            cut = cut[:, None, None]
        return active(scores, self.rule, self.fraction, cut)
