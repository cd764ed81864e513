"""Quantized packing of experts neuron by neuron, for a neuron selector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moex.quant.base import EXPERTS
from moex.quant.grouped import Grouped
from moex.quant.packing import ExpertPacking
from moex.quant.rows import NAME, Neurons
from moex.store.bundles import DOWN, GATE_UP, PackedBundles, sizes

if TYPE_CHECKING:
    from moex.quant.base import Scheme, Spec
    from moex.quant.packing import Sink


class NeuronPacking(ExpertPacking):
    """Gate rows, up rows and down columns, each quantized along the hidden dimension.

    Args:
        tensors: name, shape and dtype of an expert's tensors.
        scheme: chooses which of them are quantized.

    Raises:
        ValueError: experts without gate_up and down, groups that do not divide a row, or a
            quantizer that does not quantize by groups.
    """

    def __init__(self, tensors: Spec, scheme: Scheme) -> None:
        self.tensors, self.transposed = tensors, False
        neurons, hidden = sizes({name: shape for name, (shape, _) in tensors.items()})
        rows = {GATE_UP: (2 * neurons, hidden), DOWN: (neurons, hidden)}
        found = {name: _by_groups(scheme, name) for name in rows}
        self.shapes = rows
        self.quantizers = {name: each for name, each in found.items() if each is not None}
        dtype = tensors[GATE_UP][1]
        self.form = Neurons(found[GATE_UP], found[DOWN], neurons, hidden, dtype)

    @property
    def layout(self) -> PackedBundles:
        """The layout of a record."""
        return PackedBundles(self.form)

    def sink(self, put: Sink) -> Sink:
        """Return `put` itself: the layout packs the expert."""
        return put

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that determine the packed bytes, by weight name."""
        return {name: {**each, "kernel": NAME} for name, each in super().settings.items()}

    @property
    def kernels(self) -> set[str]:
        """The name of the compute kernel."""
        return {NAME}


def _by_groups(scheme: Scheme, name: str) -> Grouped | None:
    quantizer = scheme.of(EXPERTS + name)
    if quantizer is None or isinstance(quantizer, Grouped):
        return quantizer
    raise ValueError(
        f"quant={type(quantizer).__name__} with sparsity: neurons are packed one by one, which "
        "needs a quantizer by groups (moex.quant.grouped.Grouped); try quant=rtn_4bit, or "
        "sparsity=none"
    )
