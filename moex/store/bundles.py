"""The layout of neurons: an expert's record holds one self-contained run of bytes per neuron.

A neuron is its gate row, its up row and its down column, so that any of them are fetched with one
read, and neighbours with one between them. On the device its three parts lie in planes again,
down transposed: there, too, a neuron is a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.store.layout import PAGE, Part, Planes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

GATE_UP, DOWN = "gate_up_proj", "down_proj"


class Bundles:
    """The layout of one record: [neurons, 3, hidden], rounded up to whole pages.

    Args:
        tensors: name, shape and dtype of an expert's tensors: `gate_up_proj` [2 * intermediate,
            hidden] and `down_proj` [hidden, intermediate], as Mixtral, OLMoE and Qwen have them.

    Raises:
        ValueError: other tensors (biases, transposed weights, packed ones).
    """

    name = "bundles"

    def __init__(self, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
        shapes = {name: tuple(shape) for name, (shape, _) in tensors.items()}
        neurons, hidden = self._sizes(shapes)
        self.dtype = tensors[GATE_UP][1]
        self.neurons, self.hidden = neurons, hidden
        self.row_bytes = 3 * hidden * self.dtype.itemsize
        size = neurons * self.row_bytes
        self.parts = (Part("neurons", (neurons, 3, hidden), self.dtype, 0, size),)
        self.bytes = -(-size // PAGE) * PAGE

    @staticmethod
    def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
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

    def views(self, record: torch.Tensor) -> torch.Tensor:
        """The neurons of a record [neurons, 3, hidden], sharing its memory."""
        part = self.parts[0]
        return record[: part.bytes].view(part.dtype).view(part.shape)

    def lines(self, rows: torch.Tensor) -> np.ndarray:
        """Rows of gate, up or down, contiguous and on the CPU, each as one run of bytes [rows]."""
        return rows.view(-1).view(torch.uint8).numpy().view(f"V{self.row_bytes // 3}")

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record (uint8, `bytes` long)."""
        neurons = self.views(record)
        gate_up = tensors[GATE_UP].view(2, self.neurons, self.hidden)
        neurons[:, :2].copy_(gate_up.transpose(0, 1))
        neurons[:, 2].copy_(tensors[DOWN].t())

    def planes(self, rows: int) -> Planes:
        """The layout of a place that holds so many neurons."""
        shapes = {"gate_up": (2 * rows, self.hidden), "down": (rows, self.hidden)}
        return Planes({name: (shape, self.dtype) for name, shape in shapes.items()})
