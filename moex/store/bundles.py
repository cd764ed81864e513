"""The layout `bundles`: an expert's record holds one contiguous run of bytes per neuron.

A neuron is its gate row, its up row and its down column, so one read fetches a neuron, and one
read fetches neighbouring neurons. On the device the three are stored as planes again, down
transposed: there, too, a neuron is a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moex.quant.base import EXPERTS
from moex.quant.grouped import Grouped
from moex.quant.packing import ExpertPacking
from moex.quant.rows import NAME, Neurons
from moex.store.layout import PAGE, Part, Planes
from moex.store.row_slots import PackedRowSlots, RowSlots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from moex.quant.base import Scheme, Spec
    from moex.quant.packing import Sink
    from moex.store.base import ExpertStore
    from moex.types import Expert

GATE_UP, DOWN = "gate_up_proj", "down_proj"


class Bundles:
    """The layout of one record: [neurons, 3, hidden], rounded up to whole pages.

    Args:
        tensors: name, shape and dtype of an expert's tensors: `gate_up_proj` [2 * intermediate,
            hidden] and `down_proj` [hidden, intermediate], as in Mixtral, OLMoE and Qwen.

    Raises:
        ValueError: other tensors (biases, transposed weights, packed ones).
    """

    name = "bundles"
    by_neuron = True
    kind: type[RowSlots] = RowSlots

    def __init__(self, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
        shapes = {name: tuple(shape) for name, (shape, _) in tensors.items()}
        neurons, hidden = sizes(shapes)
        self.dtype = tensors[GATE_UP][1]
        self.neurons, self.hidden = neurons, hidden
        self.row_bytes = 3 * hidden * self.dtype.itemsize
        size = neurons * self.row_bytes
        self.parts = (Part("neurons", (neurons, 3, hidden), self.dtype, 0, size),)
        self.bytes = -(-size // PAGE) * PAGE

    def views(self, record: torch.Tensor) -> torch.Tensor:
        """The neurons of a record [neurons, 3, hidden], sharing its memory."""
        return self.neurons_of(record[: self.parts[0].bytes])

    def neurons_of(self, rows: torch.Tensor) -> torch.Tensor:
        """View runs of bytes as neurons [rows, 3, hidden], sharing their memory."""
        return rows.view(-1).view(self.dtype).view(-1, 3, self.hidden)

    def weights(self, neurons: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `gate`, `up` and `down` [rows, hidden] of neurons."""
        return dict(zip(("gate", "up", "down"), neurons.unbind(1), strict=True))

    def gate_up_down(self, store: ExpertStore, expert: Expert) -> dict[str, torch.Tensor]:
        """Return an expert's `gate`, `up` and `down` [neurons, hidden]."""
        return self.weights(store.gather(expert, None))

    def lines(self, rows: torch.Tensor) -> np.ndarray:
        """Rows of gate, up or down, contiguous and on the CPU, each as one run of bytes [rows]."""
        return rows.view(-1).view(torch.uint8).numpy().view(f"V{self.row_bytes // 3}")

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record (uint8, `bytes` long)."""
        neurons = self.views(record)
        gate_up = tensors[GATE_UP].view(2, self.neurons, self.hidden)
        neurons[:, :2].copy_(gate_up.transpose(0, 1))
        neurons[:, 2].copy_(tensors[DOWN].t())

    def slots(
        self, count: int, rows: int, device: torch.device | str, low_slots: int = 0
    ) -> RowSlots:
        """Make slots that hold `rows` neurons of an expert each; there are no slices."""
        return self.kind(self, rows, count, device)

    slices: tuple[int, ...] = ()

    def moved(self, by_rows: bool) -> Bundles | Planes:
        """The layout for experts that are moved by rows, or whole."""
        return self if by_rows else self.planes(self.neurons)

    def planes(self, rows: int) -> Planes:
        """The layout of a slot that holds `rows` neurons."""
        shapes = {"gate_up": (2 * rows, self.hidden), "down": (rows, self.hidden)}
        return NeuronPlanes({name: (shape, self.dtype) for name, shape in shapes.items()})


class NeuronPlanes(Planes):
    """The layout of whole experts that neurons are computed from: down is transposed."""

    name = "neurons"
    by_neuron = True

    def gate_up_down(self, store: ExpertStore, expert: Expert) -> dict[str, torch.Tensor]:
        """Return an expert's `gate`, `up` and `down` [neurons, hidden]."""
        record = torch.empty(self.bytes, dtype=torch.uint8)
        store.read(expert, record)
        found = self.weights(record)
        gate, up = found["gate_up"].chunk(2)
        return {"gate": gate, "up": up, "down": found["down"]}

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record with all neurons of an expert."""
        super().pack(record, {"gate_up": tensors[GATE_UP], "down": tensors[DOWN].t()})


class PackedBundles(Bundles):
    """`Bundles` of quantized neurons: records and slots are [neurons, row_bytes].

    Args:
        form: how a neuron is packed.
    """

    kind = PackedRowSlots

    def __init__(self, form: Neurons) -> None:
        self.form, self.dtype = form, torch.uint8
        self.neurons, self.hidden, self.row_bytes = form.neurons, form.hidden, form.row_bytes
        size = self.neurons * self.row_bytes
        self.parts = (Part("packed", (self.neurons, self.row_bytes), torch.uint8, 0, size),)
        self.bytes = -(-size // PAGE) * PAGE

    def neurons_of(self, rows: torch.Tensor) -> torch.Tensor:
        """View runs of bytes as packed neurons [rows, row_bytes]."""
        return rows.view(-1, self.row_bytes)

    def weights(self, neurons: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dequantize packed neurons to `gate`, `up` and `down` [rows, hidden]."""
        found = self.form.unpack(neurons)
        gate, up = found["gate_up"].chunk(2)
        return {"gate": gate, "up": up, "down": found["down"]}

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record."""
        self.views(record).copy_(self.form.pack(tensors[GATE_UP], tensors[DOWN]))

    def planes(self, rows: int) -> Planes:
        """The layout of a slot that holds `rows` neurons, still packed."""
        return Planes({"packed": ((rows, self.row_bytes), torch.uint8)})


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


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Neurons and hidden size of experts whose tensors have these shapes.

    Raises:
        ValueError: the tensors are not exactly gate_up and down of one expert.
    """
    if set(shapes) == {GATE_UP, DOWN}:
        (twice, hidden), down = shapes[GATE_UP], shapes[DOWN]
        if down == (hidden, twice // 2):
            return twice // 2, hidden
    given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    raise ValueError(
        f"sparsity: this model's experts have {given}; expected {GATE_UP} [2 * intermediate, "
        f"hidden] and {DOWN} [hidden, intermediate], without biases and not transposed; "
        "try sparsity=none"
    )
