"""Reads a checkpoint's tensors from a folder, or from a hub repository one shard at a time."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moex.models import conversion, hub
from moex.models.gguf.folder import TENSORS
from moex.models.packed.formats import decoder, record_parts
from moex.runs.run_id import folder_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.models.conversion import Group, Raw
    from moex.quant.packing import ExpertPacking

INDEX = "model.safetensors.index.json"
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Shards(ABC):
    """The files of a checkpoint; `finish` is called after the last read of each file."""

    folder: Path
    """Folder of the configuration."""

    @property
    @abstractmethod
    def files(self) -> Mapping[str, str]:
        """The file name of every tensor."""

    @abstractmethod
    def path(self, file: str, key: str) -> Path:
        """Path from which the tensor `key` of a file can be read."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Identify the weights and the transformers version, without reading the weights."""

    @abstractmethod
    def finish(self, file: str, kept: Collection[str]) -> None:
        """Note that this run reads the file no more; later runs need the tensors `kept` of it."""

    def groups(self, model: PreTrainedModel) -> dict[str, Group]:
        """The tensors and the conversion of every parameter of the model."""
        return conversion.groups(model, self.files, decoder(model.config))

    def parts(
        self, model: PreTrainedModel, layers: Collection[str], packing: ExpertPacking
    ) -> dict[str, Raw]:
        """The tensors that MoE layers' records are copied from; those that are there."""
        return record_parts(model, layers, packing, self.files)

    def read(self, key: str) -> Tensor:
        """Read one tensor into newly allocated memory.

        The safetensors memory map is not used: mapped pages count as memory until the file is
        closed, and a shard may be larger than a small machine's memory.

        Raises:
            ValueError: the file is truncated.
        """
        path = self.path(self.files[key], key)
        with path.open("rb", buffering=0) as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size))[key]
        begin, end = entry["data_offsets"]
        data = read_bytes(path, 8 + size + begin, end - begin, key)
        return data.view(STORED[entry["dtype"]]).view(entry["shape"])


class Folder(Shards):
    """A folder that holds all shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = shards(folder)
        self._files = {key: path.name for key, path in self.paths.items()}

    @property
    def files(self) -> Mapping[str, str]:
        """The file name of every tensor."""
        return self._files

    def path(self, file: str, key: str) -> Path:
        """The path of the file in the folder."""
        return self.folder / file

    def finish(self, file: str, kept: Collection[str]) -> None:
        """Do nothing: all files are kept."""

    def identity(self) -> dict[str, Any]:
        """The model's digest and, because it samples large files, their modification times."""
        paths = sorted(set(self.paths.values()))
        return {
            "model": folder_digest(self.folder, ("config.json", ".safetensors")),
            "changed": [path.stat().st_mtime_ns for path in paths],
            "transformers": transformers.__version__,
        }


class Streamed(Shards):
    """A hub repository on a small disk: a shard is downloaded when needed, and then removed.

    What later runs need of it (everything but experts, which are packed by then) is kept in a
    smaller safetensors file. After an interruption at any moment the next run resumes: packed
    layers are not downloaded again, and a partial download continues.

    Args:
        name: the repository.
        folder: the local folder of its configuration and index.
        work: folder for downloaded shards and their kept tensors.
    """

    def __init__(self, name: str, folder: Path, work: Path) -> None:
        self.name, self.folder = name, folder
        self.work = work / (name.replace("/", "--") + "-" + folder.name[:12])
        self._files = self._read_index()

    @property
    def files(self) -> Mapping[str, str]:
        """The file name of every tensor."""
        return self._files

    def _read_index(self) -> dict[str, str]:
        index = self.folder / INDEX
        if index.is_file():
            return json.loads(index.read_text())["weight_map"]
        only = "model.safetensors"  # a small model in one file without an index
        kept = self._kept(only)
        path = kept if kept.is_file() else hub.fetch(self.name, only, self.work)
        return dict.fromkeys(_header(path), only)

    def path(self, file: str, key: str) -> Path:
        """The kept part of the file if the tensor is in it, else the file, downloaded if needed."""
        kept, whole = self._kept(file), self.work / file
        if kept.is_file() and key in _header(kept):
            return kept
        return whole if whole.is_file() else hub.fetch(self.name, file, self.work)

    def finish(self, file: str, kept: Collection[str]) -> None:
        """Keep what later runs need of a shard, and remove it."""
        whole, small = self.work / file, self._kept(file)
        if not whole.is_file():
            return
        if not small.is_file():
            small.parent.mkdir(parents=True, exist_ok=True)
            partial = small.with_name(small.name + ".part")
            save_file({key: self.read(key) for key in kept}, partial)
            partial.replace(small)
        whole.unlink()

    def identity(self) -> dict[str, Any]:
        """Name and revision, which identify the weights, and the digest of the small files."""
        return {
            "model": [self.name, self.folder.name],
            "index": folder_digest(self.folder, ("config.json", INDEX)),
            "transformers": transformers.__version__,
        }

    def _kept(self, file: str) -> Path:
        return self.work / "skeleton" / file


def _header(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return set(json.loads(file.read(size))) - {"__metadata__"}


def shards(folder: Path) -> dict[str, Path]:
    """Map every tensor's name to the safetensors file that holds it.

    Raises:
        FileNotFoundError: no weights, or a shard named by the index is missing.
        ValueError: a file is truncated.
    """
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names and (folder / TENSORS).is_file():
        raise ValueError(
            f"model: {folder.name} is a GGUF file, which transformers' own loading does not read; "
            "expected safetensors; try runner=moex"
        )
    if not names:
        raise FileNotFoundError(
            f"model: {folder} has no *.safetensors file; expected the weights beside "
            "config.json; try model=tiny"
        )
    found: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"model: {folder} lacks {name}, which its index names")
        try:
            with safe_open(path, framework="pt") as file:
                found.update(dict.fromkeys(file.keys(), path))
        except SafetensorError as error:
            raise ValueError(f"model: {path} is not a whole safetensors file ({error})") from error
    return found


def read_bytes(path: Path, start: int, size: int, key: str) -> Tensor:
    """Read bytes of a file, those of the tensor `key`.

    Raises:
        ValueError: the file is truncated.
    """
    data = torch.empty(size, dtype=torch.uint8)
    view, done = memoryview(data.numpy()), 0  # type: ignore[arg-type]
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise ValueError(f"model: {path} ends inside {key}; is the file truncated?")
            done += count
    return data
