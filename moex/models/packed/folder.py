"""A folder with a packed checkpoint that moex decodes itself: GPTQ, compressed-tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.models.shards import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from moex.quant.formats.base import Format


class PackedFolder(Folder):
    """Shards whose packed matrices can also be read decoded: as `NAME.weight`, in float32.

    Args:
        folder: of the checkpoint.
        form: how its matrices are packed, attention's and experts' alike.
    """

    def __init__(self, folder: Path, form: Format) -> None:
        super().__init__(folder)
        self.form, first = form, next(iter(form.suffixes.values()))
        stems = [key.removesuffix(first) for key in self._files if key.endswith(first)]
        self._stems = {stem + ".weight": stem for stem in stems}
        self._files |= {name: self._files[stem + first] for name, stem in self._stems.items()}

    def read(self, key: str) -> Tensor:
        """Read one tensor, or decode a packed matrix.

        Raises:
            ValueError: a file is truncated, or lacks a part of the matrix.
        """
        stem = self._stems.get(key)
        if stem is None:
            return super().read(key)
        parts = {part: stem + suffix for part, suffix in self.form.suffixes.items()}
        if lacking := [name for name in parts.values() if name not in self._files]:
            raise ValueError(
                f"model: {self.folder} has {key} packed, and no {lacking[0]}; expected all parts "
                f"of {self.form.name}; is a shard missing?"
            )
        stored = {}
        for part, name in parts.items():
            stored[part] = super().read(name)
        return self.form.decode(stored, torch.float32)
