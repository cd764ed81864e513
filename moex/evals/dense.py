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
    """Computes a text token by token, while the model is attached to another run.

    Token by token, because one pass multiplies other shapes and so rounds otherwise: what is left
    of a difference is the method's. Quantization and neuron masks are those of `dense`; experts are
    those that the routers choose.

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
        before, past, logits = [layer.experts.moex for layer in self.layers], None, []
        try:
            self._attach(self.calls)
            for token in ids.split(1, dim=1):
                given = {"past_key_values": past, "use_cache": True}
                out = nn.Module.__call__(self.model, token, **given)
                past = out.past_key_values
                logits.append(out.logits[0])
        finally:
            self._attach(before)
        return torch.cat(logits)

    def _attach(self, calls: list) -> None:
        for layer, call in zip(self.layers, calls, strict=True):
            layer.experts.moex = call
