"""What a quantizer is: it makes named tensors of few bits out of a weight, and computes with them.

A model's weights are quantized by a `Scheme`, which says which quantizer takes which weight. A
quantizer is the scheme that takes them all: experts, attention and every other linear layer. The
embeddings, norms and routers keep their 16 bits, and so does the head unless a scheme names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    Spec = dict[str, tuple[tuple[int, ...], torch.dtype]]

EXPERTS = "experts."
"""What the name of an expert's weight begins with: `experts.down_proj`."""

HEAD = "lm_head"


class Scheme(ABC):
    """Says which quantizer takes which weight."""

    @abstractmethod
    def of(self, name: str) -> Quantizer | None:
        """Return the quantizer of a weight, None for 16 bits.

        Args:
            name: `experts.gate_up_proj`, `experts.down_proj`, or the name of a linear layer.
        """

    @abstractmethod
    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Hear where products will be computed, and in what if that is known; before all else."""


def quantizes(scheme: Scheme) -> bool:
    """Whether a scheme quantizes anything: of experts, attention and head, without a model."""
    names = (EXPERTS + "gate_up_proj", EXPERTS + "down_proj", "model.layers.0.self_attn.q_proj")
    return any(scheme.of(name) is not None for name in (*names, HEAD))


class Quantizer(Scheme):
    """Weights [out, in] <-> named tensors. The planes that are stored are those that compute."""

    key: str = "quant"
    """Where its settings stand on the command line, for messages."""
    device: str = "cpu"
    """Where products are computed."""
    dtype: torch.dtype | None = None
    """Of the activations, None: as most models have them, bfloat16."""

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Hear where products will be computed, and in what."""
        self.device, self.dtype = device, dtype

    def of(self, name: str) -> Quantizer | None:
        """Take every weight but the head's."""
        return None if name == HEAD else self

    @abstractmethod
    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of what `pack` makes of a weight [out, in].

        Raises:
            ValueError: bits, groups or kernel do not suit the shape.
        """

    @abstractmethod
    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight [out, in]."""

    @abstractmethod
    def unpack(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in] that the packed tensors stand for."""

    @abstractmethod
    def matmul(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Return `x @ weight.T` [..., out] in the dtype of `x` [..., in]."""

    @abstractmethod
    def kernel_name(self, shape: tuple[int, int]) -> str:
        """Name what computes `matmul` for a weight of this shape."""

    @abstractmethod
    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """Return all that decides the packed bytes of a weight of this shape, as JSON has it."""

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Bytes of a packed weight, scales and all: exactly those of the tensors."""
        return sum(prod(size) * dtype.itemsize for size, dtype in self.tensors(shape).values())


class Packed(NamedTuple):
    """A packed weight, as whoever computes with it holds it."""

    quantizer: Quantizer
    tensors: Mapping[str, Tensor]

    def matmul(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T`."""
        return self.quantizer.matmul(x, self.tensors)

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]."""
        return self.quantizer.unpack(self.tensors, dtype)
