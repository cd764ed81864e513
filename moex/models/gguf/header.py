"""The header of a GGUF file: metadata, and where each tensor is. Read through the gguf package."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from moex.quant.formats.gguf import BLOCKS

if TYPE_CHECKING:
    from pathlib import Path

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
ARRAYS = "tokenizer."
"""Lists of metadata that are not read: long, and only the tokenizer needs them."""
REQUIRED = object()


class Stored(NamedTuple):
    """Where a tensor is: file, first byte, bytes, block type, and shape as torch has it."""

    file: str
    offset: int
    bytes: int
    type: str
    shape: list[int]


class Header(NamedTuple):
    """What a model's file, or all its files, say before the weights."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def architecture(self) -> str:
        """Llama.cpp's name of the architecture."""
        return str(self.metadata.get("general.architecture", "nameless"))

    def read(self, key: str, default: Any = REQUIRED) -> Any:
        """A setting of the architecture.

        Raises:
            ValueError: it is not there, and has no default.
        """
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        if found is REQUIRED:
            raise ValueError(
                f"model: {self.path} has no {self.architecture}.{key}; expected the metadata that "
                "llama.cpp writes; try a file made anew from the checkpoint"
            )
        return found

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor.

        Raises:
            ValueError: it is not there.
        """
        if name not in self.tensors:
            raise ValueError(
                f"model: {self.path} has no tensor {name}; expected all tensors of a "
                f"{self.architecture} model, experts stacked (ffn_gate_exps); try a file made by a "
                "llama.cpp of May 2024 or later"
            )
        return self.tensors[name].shape


def read_header(path: Path) -> Header:
    """Read the header of a model's GGUF file; of all its files, given the first of several.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not whole, holds a block type that is not decoded, or the gguf package is
            not installed.
    """
    metadata: dict[str, Any] = {}
    tensors: dict[str, Stored] = {}
    for each in files_of(path):
        reader = _open(each)
        for key, field in reader.fields.items():
            if key not in metadata and not (key.startswith(ARRAYS) and len(field.data) > 1):
                metadata[key] = field.contents()
        for tensor in reader.tensors:
            kind = tensor.tensor_type.name
            if kind not in BLOCKS:
                raise ValueError(
                    f"model: {each} stores {tensor.name} as {kind}; expected one of "
                    f"{', '.join(BLOCKS)}; try a file of Q4_K_M"
                )
            shape = tensor.shape.tolist()[::-1]
            place = (str(each), int(tensor.data_offset), int(tensor.n_bytes))
            tensors[tensor.name] = Stored(*place, kind, shape)
    return Header(path, metadata, tensors)


def files_of(path: Path) -> list[Path]:
    """The file, or all files of a split model.

    Raises:
        FileNotFoundError: one is missing.
    """
    path, paths = path.expanduser().absolute(), [path.expanduser().absolute()]
    if found := SPLIT.search(path.name):
        start, count = path.name[: found.start()], int(found[2])
        paths = [path.with_name(f"{start}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    for each in paths:
        if not each.is_file():
            raise FileNotFoundError(
                f"model.name={path}: no file {each}; expected a GGUF file, with all its parts "
                "beside it; try model=tiny"
            )
    return paths


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model: reading {path.name} needs the package gguf; expected it to be installed; try "
            "pip install gguf"
        ) from error
    try:
        return GGUFReader(path)
    except (IndexError, KeyError, OverflowError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"model: {path} is not a whole GGUF file ({reason}); expected one as llama.cpp writes "
            "it; is it truncated? try downloading it again"
        ) from error
