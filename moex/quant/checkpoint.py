"""Experts in the bits of their own checkpoint: copied once, and computed from as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moex.quant.base import EXPERTS, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from moex.quant.base import Quantizer
    from moex.quant.formats.base import Stored

KERNELS = ("reference", "rows")


@dataclass
class Checkpoint(Scheme):
    """Keep the experts of a packed checkpoint as its files have them; all else is decoded.

    Exact relative to the file, so it is not lossy: what it lost was lost when the file was made.

    Args:
        kernel: what computes: reference (decodes, then multiplies as the decoded model would, bit
            for bit), or rows (GGUF on a CPU: few tokens are multiplied row by row, in float32).

    Raises:
        ValueError: another kernel.
    """

    kernel: str = "reference"
    changes = False
    _stored: dict[str, Stored] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(
                f"quant.kernel={self.kernel}: expected one of {', '.join(KERNELS)}; "
                "try quant.kernel=reference"
            )

    def read(self, stored: Mapping[str, Any], name: str) -> None:
        """Learn what the files hold.

        Raises:
            ValueError: plain numbers.
        """
        if not stored:
            raise ValueError(
                f"quant=checkpoint: the experts of {name} are stored as plain numbers; expected a "
                "packed checkpoint, e.g. gpt-oss in mxfp4 or a GGUF file; try quant=none"
            )
        self._stored = dict(stored)
        for quantizer in self._stored.values():
            quantizer.kernel = self.kernel

    def of(self, name: str) -> Quantizer | None:
        """Return how the files hold an expert's weight."""
        return self._stored.get(name.removeprefix(EXPERTS)) if name.startswith(EXPERTS) else None

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Set the device and dtype of the products."""
        for quantizer in self._stored.values():
            quantizer.bind(device, dtype)
