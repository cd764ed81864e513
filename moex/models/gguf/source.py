"""The tensors of a GGUF file as a checkpoint's: decoded, or an expert's as they are."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.nn import functional

from moex.models.conversion import SLASH, Raw
from moex.models.experts_interface import moe_layers
from moex.models.gguf.folder import TENSORS, read_index
from moex.models.gguf.names import EXPERTS, tensors_of
from moex.models.packed.formats import format_of
from moex.models.shards import Shards, read_bytes
from moex.quant.formats.gguf import BLOCKS, GGUF, decode
from moex.runs.run_id import folder_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.models.gguf.names import Made
    from moex.quant.packing import ExpertPacking

BYTES, TYPE = ":blocks", ":type"
"""What follows a tensor's name where its bytes, or its block type, are asked for."""


class GgufFile(Shards):
    """A model's GGUF file or files, as `folder` lists its tensors."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, read_index(folder)
        self._files = {
            name + what: place.file
            for name, place in self.index.items()
            for what in ("", BYTES, TYPE)
        }
        self._forms: dict[str, GGUF] = {}

    @property
    def files(self) -> Mapping[str, str]:
        """The file of every tensor."""
        return self._files

    def path(self, file: str, key: str) -> Path:
        """The path of the file."""
        return self.folder / file  # absolute

    def finish(self, file: str, kept: Collection[str]) -> None:
        """Do nothing: all files are kept."""

    def identity(self) -> dict[str, Any]:
        """The digest of the index, which is made anew with every change of the file."""
        digest = folder_digest(self.folder, ("config.json", TENSORS))
        return {"model": [self.folder.name, digest], "transformers": transformers.__version__}

    def groups(self, model: PreTrainedModel) -> dict[str, Made]:  # type: ignore[override]
        """The tensors of every parameter, in the form that the file has."""
        layers = {layer.name: layer.experts for layer in moe_layers(model)}
        found = {}
        for target, made in tensors_of(model, layers):
            if all(key in self.index for key in made.names):
                found[target] = made
        return found

    def parts(
        self, model: PreTrainedModel, layers: Collection[str], packing: ExpertPacking
    ) -> dict[str, Raw]:
        """The bytes and types of the experts' tensors, for the records of MoE layers."""
        form, found = format_of(model.config), {}
        assert isinstance(form, GGUF)
        for layer, part in product(layers, packing.tensors):
            weight, *rest = part.split(".")
            if not rest or weight not in EXPERTS:
                continue
            name = f"blk.{layer.split('.')[2]}.ffn_{rest[0]}_exps.weight"
            self._forms[name] = form.of(rest[0])
            if name in self.index:
                key = name + (TYPE if rest[1] == "type" else BYTES)
                found[f"{layer}.{part.replace('.', SLASH)}"] = Raw([key], stacked=True)
        return found

    def read(self, key: str) -> Tensor:
        """Read one tensor into newly allocated memory: decoded, or its bytes or block type.

        Raises:
            ValueError: the file is truncated.
        """
        name, _, what = key.partition(":")
        place = self.index[name]
        if what == "type":
            return torch.full((place.shape[0], 1), BLOCKS[place.type].number, dtype=torch.uint8)
        data = read_bytes(self.path(place.file, name), place.offset, place.bytes, name)
        rows = data.view(*place.shape[:-1], -1)
        if not what:
            return decode(rows, place.type)
        widest = self._forms[name].widest
        room = place.shape[1] * (place.shape[2] // widest.numbers * widest.bytes)
        flat = rows.flatten(1)
        return functional.pad(flat, (0, room - flat.shape[1])).view(*place.shape[:2], -1)
