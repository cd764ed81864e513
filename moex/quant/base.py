"""The interface of a quantizer: it turns a weight into low-bit tensors and computes with them.

A `Scheme` assigns a quantizer to each weight of a model. A quantizer is itself the scheme that
takes all weights: experts, attention and every other linear layer. Embeddings, norms and routers
keep 16 bits, and so does the head unless a scheme names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    Spec = dict[str, tuple[tuple[int, ...], torch.dtype]]

EXPERTS = "experts."
"""Prefix of the names of experts' weights, e.g. `experts.down_proj`."""

HEAD = "lm_head"


class Scheme(ABC):
    """Assigns a quantizer to each weight."""

    changes: ClassVar[bool] = True
    """Whether weights lose by it what the checkpoint has."""

    def read(self, stored: Mapping[str, Quantizer], name: str) -> None:
        """Learn how a packed checkpoint holds its experts' weights; called before `bind`.

        Args:
            stored: by the weights' names (`down_proj`); empty: plain numbers.
            name: of the checkpoint, for messages.
        """

    @abstractmethod
    def of(self, name: str) -> Quantizer | None:
        """Return the quantizer of a weight, None for 16 bits.

        Args:
            name: `experts.gate_up_proj`, `experts.down_proj`, or the name of a linear layer.
        """

    @abstractmethod
    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Set the device and, if known, the dtype of the products; called before anything else."""


def quantizes(scheme: Scheme) -> bool:
    """Whether a scheme quantizes experts, attention or head; needs no model."""
    names = (EXPERTS + "gate_up_proj", EXPERTS + "down_proj", "model.layers.0.self_attn.q_proj")
    return any(scheme.of(name) is not None for name in (*names, HEAD))


def in_slices(scheme: Scheme | None) -> bool:
    """Whether a scheme packs experts in two slices, of which the first computes alone."""
    names = () if scheme is None else (EXPERTS + "gate_up_proj", EXPERTS + "down_proj")
    return any((quantizer := scheme.of(n)) is not None and bool(quantizer.refining) for n in names)  # type: ignore[union-attr]


class Quantizer(Scheme):
    """Converts weights [out, in] to named tensors and back; computes with the stored tensors."""

    key: str = "quant"
    """Its configuration key, for messages."""
    device: str = "cpu"
    """Device of the products."""
    dtype: torch.dtype | None = None
    """Dtype of the activations; None: bfloat16, as in most models."""
    refining: frozenset[str] = frozenset()
    """Packed tensors that make up the low slice: without them it computes in fewer bits."""

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Set the device and dtype of the products."""
        self.device, self.dtype = device, dtype

    def of(self, name: str) -> Quantizer | None:
        """Take every weight but the head's."""
        return None if name == HEAD else self

    @abstractmethod
    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of the tensors that `pack` makes of a weight [out, in].

        Raises:
            ValueError: bits, groups or kernel do not support the shape.
        """

    @abstractmethod
    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight [out, in]."""

    @abstractmethod
    def unpack(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Dequantize packed tensors to the weight [out, in]."""

    @abstractmethod
    def matmul(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Return `x @ weight.T` [..., out] in the dtype of `x` [..., in]."""

    @abstractmethod
    def kernel_name(self, shape: tuple[int, int]) -> str:
        """Return the name of the kernel that computes `matmul` for a weight of this shape."""

    def computes_on(self, device: str, shape: tuple[int, int]) -> bool:
        """Whether a device computes with weights of this shape as they were packed for `device`."""
        return True

    @abstractmethod
    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """Return all settings that determine a weight's packed bytes, as JSON values."""

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Bytes of a packed weight of this shape, including scales and zeros."""
        return sum(prod(size) * dtype.itemsize for size, dtype in self.tensors(shape).values())


class Packed(NamedTuple):
    """A packed weight with its quantizer, ready to compute with."""

    quantizer: Quantizer
    tensors: Mapping[str, Tensor]

    def matmul(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T`."""
        return self.quantizer.matmul(x, self.tensors)

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]."""
        return self.quantizer.unpack(self.tensors, dtype)
