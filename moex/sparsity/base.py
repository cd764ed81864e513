"""The interface of a neuron selector: it selects the neurons of an expert for each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.types import Expert, Geometry

    Weights = Callable[[Expert], dict[str, Tensor]]

MODES = ("predicted", "late", "exact")
PREFILL = ("dense", "masked")
RULES = ("top", "quantile", "energy")
"""Rules that turn scores into a selection; see `sparsity/active.py`."""


class NeuronSelector(ABC):
    """Selects neurons from the token's hidden states and a checkpoint only.

    Never from residency or arrival: a selected row that is absent is fetched, so every cache, link
    and prefetcher gives the same logits. A neuron is gate row j, up row j and down column j.

    `mode` is the state that selects: "predicted" the router input of the MoE layer before (so that
    all selected rows can be fetched early; layer 0 uses its own), "late" the layer's own, "exact"
    selects everything. `prefill` is "masked" if masks apply in prefill, else "dense".

    Raises:
        ValueError: an unknown mode, prefill or rule, or a fraction outside (0, 1].
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """May contain `weights`: the expert's own weights, for an upper bound that saves nothing."""

    rules: ClassVar[tuple[str, ...]] = ("top", "energy")
    """The `RULES` that this selector supports."""

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    identity: str = ""
    """Hash of its checkpoint, part of the accuracy key; empty without a checkpoint."""

    device_bytes: int = 0
    """Device memory in bytes once bound; counted in the run's capacity."""

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("prefill", PREFILL), ("rule", self.rules)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"sparsity.{name}={value}: expected one of {', '.join(known)}")
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"sparsity.fraction={self.fraction}: expected a share in (0, 1], e.g. 0.3"
            )

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Bind to a model: its geometry, its folder (used to find checkpoints), its weights.

        `weights` returns an expert's `gate`, `up` and `down`, each with one row per neuron
        [intermediate, hidden] (down columns as rows); None for selectors that do not need them.

        Raises:
            ValueError: the checkpoint belongs to another model or geometry.
            FileNotFoundError: there is no checkpoint.
        """

    @property
    def share(self) -> float:
        """The share of an expert's rows that it selects for a token; 0 if that varies."""
        return 0.0 if self.rule == "energy" else self.fraction

    def ahead(self, layer: int) -> int:
        """How many MoE layers before `layer` its selecting state is taken: 0 or 1."""
        return int(self.mode == "predicted" and layer > 0)

    @abstractmethod
    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Return the selected neurons, bool [experts, tokens, intermediate]; None for all.

        Args:
            hidden: the router input of layer `layer - ahead(layer)` [tokens, hidden].
            layer: the MoE layer whose neurons are selected.
            experts: indices of its experts.
        """

    def expect(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Predict the result of `select` one layer early, for prefetching; None for all neurons.

        Args:
            hidden: the router input of layer `layer - 1` [tokens, hidden].
            layer: as in `select`, above 0.
            experts: as in `select`.
        """
        return self.select(hidden, layer, experts) if self.ahead(layer) else None
