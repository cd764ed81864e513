"""What a neuron selector is: it says which neurons of an expert count for a token."""

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
"""How scores decide; see `sparsity/active.py`."""


class NeuronSelector(ABC):
    """Selects neurons by the token's own hidden states and a checkpoint, and by nothing else.

    Never by residency or arrival: a selected row that is absent is fetched, so any cache, link and
    prefetcher gives the same logits. A neuron is gate row j, up row j and down column j.

    `mode` says whose state selects: "predicted" the router input of the MoE layer before (so that
    all selected rows can be fetched early; layer 0 uses its own), "late" the layer's own, "exact"
    selects everything. `prefill` says whether masks apply in prefill: "dense" or "masked".

    Raises:
        ValueError: a mode, way of prefill or rule of another name, or no share in (0, 1].
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of `weights`: the expert's own weights (an upper bound that saves nothing)."""

    rules: ClassVar[tuple[str, ...]] = ("top", "energy")
    """Of `RULES`, those that it knows."""

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    identity: str = ""
    """The hash of its checkpoint: part of the accuracy key. Empty where there is none."""

    device_bytes: int = 0
    """Device memory that it holds once bound; charged to the run's capacity."""

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("prefill", PREFILL), ("rule", self.rules)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"sparsity.{name}={value}: expected one of {', '.join(known)}")
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"sparsity.fraction={self.fraction}: expected a share in (0, 1], e.g. 0.3"
            )

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Meet the model: its geometry, its folder (checkpoints lie there or name it), its weights.

        `weights` gives an expert's `gate`, `up` and `down`, one row a neuron [intermediate, hidden]
        each (down columns as rows); only to selectors that need them.

        Raises:
            ValueError: a checkpoint of another model, geometry or layer count, or none at all.
        """

    def ahead(self, layer: int) -> int:
        """How many MoE layers before `layer` the state is taken that selects for it: 0 or 1."""
        return int(self.mode == "predicted" and layer > 0)

    @abstractmethod
    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Return which neurons count, bool [experts, tokens, intermediate]; None for all of them.

        Args:
            hidden: the router input of layer `layer - ahead(layer)` [tokens, hidden].
            layer: the MoE layer whose neurons are selected.
            experts: indices of its experts.
        """

    def expect(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Guess what `select` will return for `layer`, a layer early, for prefetching; None: all.

        Args:
            hidden: the router input of layer `layer - 1` [tokens, hidden].
            layer: as in `select`, above 0.
            experts: as in `select`.
        """
        return self.select(hidden, layer, experts) if self.ahead(layer) else None
