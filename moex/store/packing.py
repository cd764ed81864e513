"""Packs a model's experts into files once: atomically, and resumable at any moment.

A folder holds one file of records per layer and, for records that are read by rows (`bundles`),
one file of row checksums per layer. A file is renamed to its final name when it is complete on
disk, `progress.json` lists the finished layers, and `manifest.json` is written last: its existence
means that the folder is complete. Unfinished files have private names that are never read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import zlib
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import torch
from tqdm.auto import tqdm

from moex.runs.atomic import atomic_write, exclusive_lock, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moex.store.bundles import Bundles
    from moex.store.layout import Planes
    from moex.types import Expert, Geometry

Checksum = int | list[int]

SCHEMA = 2
MANIFEST = "manifest.json"
PROGRESS = "progress.json"

log = logging.getLogger(__name__)


def header(layout: Planes | Bundles, geometry: Geometry) -> dict[str, Any]:
    """The fields that a reader checks in a manifest, as JSON values."""
    rows = {"row_checksums": "crc32"} if layout.neurons else {}
    parts = [[p.name, list(p.shape), str(p.dtype), p.offset, p.bytes] for p in layout.parts]
    return {
        "schema": SCHEMA,
        "layout": layout.name,
        "parts": parts,
        "record_bytes": layout.bytes,
        "geometry": geometry._asdict(),
        "checksum": "crc32",
        **rows,
    }


def packed_folder(
    cache: Path, name: str, layout: Planes | Bundles, geometry: Geometry, source: Mapping[str, Any]
) -> Path:
    """The folder of a model's records: a readable name and a hash of all that determines them."""
    text = json.dumps([header(layout, geometry), source], sort_keys=True)
    readable = re.sub(r"[^\w.-]+", "-", name.strip("/").rpartition("/")[2])
    return cache.expanduser() / f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def layer_file(folder: Path, layer: int) -> Path:
    """The file of a layer's records, one expert after the other."""
    return folder / f"layer-{layer:03d}.records"


def rows_file(folder: Path, layer: int) -> Path:
    """The file of a layer's row checksums [experts, neurons], four bytes each."""
    return folder / f"layer-{layer:03d}.rows"


class Packer:
    """Packs experts into a folder, one by one; a context manager.

    Args:
        folder: for this model, quantization and layout.
        layout: the layout of one record.
        geometry: the numbers of layers and experts.
        source: what the records are made from; stored in the manifest.

    Raises:
        RuntimeError: the folder cannot be written, or the disk has too little space.
    """

    def __init__(
        self, folder: Path, layout: Planes | Bundles, geometry: Geometry, source: Mapping[str, Any]
    ) -> None:
        self.folder, self.layout, self.geometry, self.source = folder, layout, geometry, source
        self._checksums: dict[int, list[Checksum]] = {}
        self._complete = (folder / MANIFEST).is_file()
        self._record = torch.zeros(layout.bytes, dtype=torch.uint8)  # padding between tensors is 0
        self._stack = ExitStack()
        self._file: BinaryIO | None = None

    @property
    def done(self) -> set[int]:
        """Layers that are packed already."""
        return set(range(self.geometry.layers)) if self._complete else set(self._checksums)

    def __enter__(self) -> Self:
        if self._complete:
            return self
        with self._one_line_errors(), ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(exclusive_lock(self.folder, self._wait)):
                for left_over in self.folder.glob("*.part"):
                    left_over.unlink(missing_ok=True)
            self._complete = (self.folder / MANIFEST).is_file()
            if not self._complete:
                self._resume()
                self._bar = stack.enter_context(
                    tqdm(total=self.geometry.layers, desc="packing layers", disable=None)
                )
                self._bar.update(len(self.done))
                self._stack = stack.pop_all()
        return self

    def _wait(self) -> None:
        log.warning("moex: another process is packing into %s: waiting for it", self.folder)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        with self._stack:
            if self._file is not None:
                self._file.close()
                Path(self._file.name).unlink(missing_ok=True)
            if kind is None and not self._complete:
                self._finish()

    def put(self, expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
        """Append one expert; experts of a layer must be given in order, layers in any order."""
        self.layout.pack(self._record, tensors)
        data = self._record.numpy().data
        with self._one_line_errors():
            if expert.index == 0:
                private = f".{layer_file(self.folder, expert.layer).name}.{os.getpid()}.part"
                self._file = (self.folder / private).open("wb")
                self._crcs: list[Checksum] = []
                self._row_crcs: list[int] = []
            assert self._file is not None
            assert expert.index == len(self._crcs)
            self._file.write(data)
            self._crcs.append(checksum(data, self.layout.slices))
            self._row_crcs += row_checksums(self._record, self.layout)
            if len(self._crcs) == self.geometry.experts:
                self._end_layer(expert.layer, self._file)

    def _end_layer(self, layer: int, file: BinaryIO) -> None:
        with file:
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "linux":  # direct reads do not use the page cache
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if self._row_crcs:
            with atomic_write(rows_file(self.folder, layer)) as partial:
                partial.write_bytes(np.array(self._row_crcs, "<u4").tobytes())
        os.replace(file.name, layer_file(self.folder, layer))
        self._file = None
        self._checksums[layer] = self._crcs
        write_atomically(self.folder / PROGRESS, json.dumps(self._checksums))
        self._bar.update()

    def _resume(self) -> None:
        """Keep the layers that an earlier run finished, and check the space for the rest."""
        size = self.geometry.experts * self.layout.bytes
        with suppress(FileNotFoundError, ValueError):
            for number, crcs in json.loads((self.folder / PROGRESS).read_text()).items():
                if layer_file(self.folder, int(number)).stat().st_size == size:
                    self._checksums[int(number)] = crcs
        needed = (self.geometry.layers - len(self._checksums)) * size
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RuntimeError(
                f"store: packing needs {needed} bytes in {self.folder}, where {free} are free; "
                "expected room for the experts; try cache_dir=ANOTHER_FOLDER or memory.store=ram"
            )

    def _finish(self) -> None:
        assert len(self._checksums) == self.geometry.layers
        manifest = {
            **header(self.layout, self.geometry),
            "source": self.source,
            "checksums": [self._checksums[layer] for layer in range(self.geometry.layers)],
        }
        with self._one_line_errors():
            write_atomically(self.folder / MANIFEST, json.dumps(manifest) + "\n")
            (self.folder / PROGRESS).unlink(missing_ok=True)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RuntimeError(
                f"store: cannot pack into {self.folder} ({error.strerror}); expected a folder that "
                "can be written and has room; try cache_dir=ANOTHER_FOLDER or memory.store=ram"
            ) from error


def checksum(data: memoryview, slices: Sequence[int]) -> Checksum:
    """Checksum of a record; of one in several slices, the checksum of each."""
    if len(slices) < 2:
        return zlib.crc32(data)
    starts = [0, *accumulate(slices)]
    return [zlib.crc32(data[start:end]) for start, end in pairwise(starts)]


def row_checksums(record: torch.Tensor, layout: Planes | Bundles) -> list[int]:
    """Checksums of a record's rows; empty for a layout that is read whole."""
    data, size = record.numpy().data, layout.row_bytes
    return [zlib.crc32(data[n * size : (n + 1) * size]) for n in range(layout.neurons)]
