"""Master copies in files, read around the page cache where the file system allows it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import weakref
import zlib
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np

from moex.runs.atomic import shared
from moex.store.base import ExpertStore
from moex.store.layout import PAGE
from moex.store.packing import MANIFEST, Checksum, checksum, header, layer_file, rows_file
from moex.store.row_reader import RowReader
from moex.store.slots import paged
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from moex.store.bundles import Bundles
    from moex.store.layout import Planes
    from moex.types import Geometry

log = logging.getLogger(__name__)
DIRECT = os.O_DIRECT if sys.platform == "linux" else 0

BOUNCE = 4 << 20
"""Bytes of a thread's bounce buffer, for targets that cannot be read into: GPU memory."""


class DiskStore(ExpertStore):
    """The records of a packed folder (see `packing`). Any number of threads may read at once.

    Opening checks the manifest and the file sizes; the checksum of a record or row is checked when
    it is read for the first time.

    Args:
        folder: the packed folder.
        layout: the expected layout of its records.
        geometry: the expected geometry.
        direct: read around the page cache, if the file system allows it.

    Raises:
        RuntimeError: the folder is not complete, or holds something else.
    """

    name = "disk"
    from_files = True

    def __init__(
        self, folder: Path, layout: Planes | Bundles, geometry: Geometry, direct: bool = True
    ) -> None:
        self.folder, self.layout, self.geometry = folder, layout, geometry
        self._checksums = self._read_manifest()
        self._checked: set[Expert] = set()
        self._slices_checked: set[tuple[Expert, tuple[int, int]]] = set()
        self._row_checksums = [self._read_row_checksums(layer) for layer in range(geometry.layers)]
        shape = (geometry.layers, geometry.experts, layout.neurons)
        self._rows_checked = np.zeros(shape, bool)
        with ExitStack() as stack:
            stack.enter_context(shared(folder))  # so that no other process removes it meanwhile
            with suppress(OSError):
                os.utime(folder)  # the time of last use
            flags = DIRECT if direct and self._direct_reads_work() else 0
            self.io = "direct" if flags else "buffered"
            if direct and not flags:
                log.warning(
                    "moex: direct reads are not possible in %s: reading through the page cache",
                    folder,
                )
            self._mine = threading.local()  # buffers of each reading thread
            self._files = [self._open(layer, flags, stack) for layer in range(geometry.layers)]
            self._close = weakref.finalize(self, stack.pop_all().close)

    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Read the expert's record into `out`; without a bounce buffer if `out` is from `paged`."""
        self.read_part(expert, 0, out)
        self.check(expert, out)

    def read_part(self, expert: Expert, begin: int, out: torch.Tensor) -> None:
        """Fill `out` (whole pages) with bytes of a record, from byte `begin` on.

        Raises:
            RuntimeError: the file cannot be read, or is too short.
        """
        if out.device.type != "cpu" or out.data_ptr() % PAGE:
            memory = vars(self._mine).get("bounce")
            if memory is None:  # kept: allocating takes as long as reading
                memory = self._mine.bounce = paged(BOUNCE)
            for part in out.split(BOUNCE):
                self.read_part(expert, begin, memory[: len(part)])
                part.copy_(memory[: len(part)])
                begin += len(part)
            return
        file, at = self.where(expert)
        rest, at = out.numpy().data, at + begin
        try:
            while rest:
                count = os.preadv(file, [rest], at)
                if not count or count % PAGE:
                    raise self._failure(expert, "the file is too short")
                rest, at = rest[count:], at + count
        except OSError as error:
            raise self._failure(expert, error.strerror) from error

    def read_slice(self, expert: Expert, span: tuple[int, int], out: torch.Tensor) -> None:
        """Read a slice of the expert's record into `out`; checked when it is read first."""
        self.read_part(expert, span[0], out)
        if expert not in self._checked and (expert, span) not in self._slices_checked:
            found = zlib.crc32(out.cpu().numpy().data)
            number = 0 if not span[0] else 1
            if found != self._checksums[expert.layer][expert.index][number]:  # type: ignore[index]
                raise self._failure(expert, "a slice is not the one that was packed")
            self._slices_checked.add((expert, span))

    def where(self, expert: Expert) -> tuple[int, int]:
        """The open file that holds the expert's record, and the byte at which it begins."""
        return self._files[expert.layer], expert.index * self.layout.bytes

    def rows(self, expert: Expert, rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield neurons of the expert as runs of bytes; neighbouring ones share a read.

        Raises:
            RuntimeError: a read failed, or a checksum differs.
        """
        # Removed while in use: a reader whose generator was never finished is not reused.
        reads = vars(self._mine).pop("reads", None)
        if reads is None:
            reads = RowReader(self.layout.row_bytes, self.io == "direct")
        file, start = self.where(expert)
        wanted = np.arange(self.layout.neurons) if rows is None else rows
        try:
            for part, found in reads.read(file, start, start + self.layout.bytes, wanted):
                runs = found.view(np.uint8).reshape(len(found), -1)
                self._check_rows(expert, wanted[part], runs)
                yield part, found
            self._mine.reads = reads
        except OSError as error:
            raise self._failure(expert, error.strerror) from error

    def check(self, expert: Expert, record: torch.Tensor) -> None:
        """Check a record against its checksum, unless it has been checked before.

        Raises:
            RuntimeError: the checksum differs.
        """
        if expert not in self._checked:
            crc = checksum(record.cpu().numpy().data, self.layout.slices)
            if crc != self._checksums[expert.layer][expert.index]:
                raise self._failure(expert, "its checksum is not the one it was packed with")
            self._checked.add(expert)
            self._rows_checked[expert] = True

    def checked(self, expert: Expert) -> bool:
        """Whether the record has been checked against its checksum."""
        return expert in self._checked

    def _check_rows(self, expert: Expert, rows: np.ndarray, data: np.ndarray) -> None:
        """Check rows against their checksums, unless they have been checked before."""
        checked = self._rows_checked[expert]
        for at in np.flatnonzero(~checked[rows]):
            row = rows[at]
            if zlib.crc32(data[at]) != self._row_checksums[expert.layer][expert.index, row]:
                raise self._failure(expert, f"neuron {row} is not the one that was packed")
            checked[row] = True

    def verify(self) -> None:
        """Read all records and check their checksums."""
        self._checked.clear()
        record = paged(self.layout.bytes)
        for layer in range(self.geometry.layers):
            for index in range(self.geometry.experts):
                self.read(Expert(layer, index), record)

    def close(self) -> None:
        """Close the files; also done when the store is garbage-collected."""
        if self.whole is not None:
            self.whole.close()
        self._close()
        self._mine = threading.local()

    def _read_manifest(self) -> list[list[Checksum]]:
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise self._broken(f"{path} cannot be read") from error
        expected = header(self.layout, self.geometry)
        wrong = [name for name, value in expected.items() if manifest.get(name) != value]
        if wrong:
            raise self._broken(f"{path} has another {wrong[0]}")
        size = self.geometry.experts * self.layout.bytes
        for layer in range(self.geometry.layers):
            file = layer_file(self.folder, layer)
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise self._broken(f"{file} has {found} bytes, not {size}")
        return manifest["checksums"]

    def _read_row_checksums(self, layer: int) -> np.ndarray:
        shape = (self.geometry.experts, self.layout.neurons)
        if not self.layout.neurons:
            return np.zeros(shape, "<u4")
        file = rows_file(self.folder, layer)
        found = np.fromfile(file, "<u4") if file.is_file() else np.zeros(0, "<u4")
        if found.size != shape[0] * shape[1]:
            raise self._broken(f"{file} has {found.size} checksums, not {shape[0] * shape[1]}")
        return found.reshape(shape)

    def _direct_reads_work(self) -> bool:
        """Whether direct opening and reading work: some file systems refuse only the read."""
        try:
            with ExitStack() as stack:
                file = self._open(0, DIRECT, stack)
                return os.preadv(file, [paged(PAGE).numpy().data], 0) == PAGE
        except OSError:
            return False

    def _open(self, layer: int, flags: int, stack: ExitStack) -> int:
        file = os.open(layer_file(self.folder, layer), os.O_RDONLY | flags)
        stack.callback(os.close, file)
        return file

    def _failure(self, expert: Expert, reason: str | None) -> RuntimeError:
        name = f"expert {expert.index} of layer {expert.layer}"
        return self._broken(
            f"cannot read {name} in {layer_file(self.folder, expert.layer)}: {reason}"
        )

    def _broken(self, what: str) -> RuntimeError:
        return RuntimeError(
            f"store: {what}; expected what was packed there; remove {self.folder}, and the next "
            "run packs it again"
        )
