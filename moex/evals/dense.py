"""Logits of the same model with all experts that its routers choose, beside a lossy run of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.runner.offloaded import OffloadedModel


class DenseLogits:
    """Computes a text in one pass, while the model is attached to another run.

    Quantization and neuron masks are those of `dense`; routing and misses are the model's own.

    Args:
        model: attached to the lossy run.
        dense: the same model, offloaded without routing policy and lossy misses; not entered.
    """

    def __init__(self, model: PreTrainedModel, dense: OffloadedModel) -> None:
        self.model, self.layers = model, dense.layers
        self.calls = [partial(dense._call, number) for number in range(len(self.layers))]

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """Return the logits [tokens, vocabulary] of a text [1, tokens]."""
        before = [layer.experts.moex for layer in self.layers]
        try:
            self._attach(self.calls)
            logits: Tensor = nn.Module.__call__(self.model, ids, use_cache=False).logits
        finally:
            self._attach(before)
        return logits[0]

    def _attach(self, calls: list) -> None:
        for layer, call in zip(self.layers, calls, strict=True):
            layer.experts.moex = call
