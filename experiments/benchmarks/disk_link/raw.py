"""Records of random bytes, and plain direct reads of records: the other side of `bench.py`."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from moex.store.disk import DIRECT, DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer, layer_file
from moex.store.slots import HUGE, paged
from moex.types import Expert, Geometry

if TYPE_CHECKING:
    from pathlib import Path


def synthetic(folder: Path, size: int, layers: int, experts: int) -> DiskStore:
    """A store of records of random bytes."""
    layout = Planes({"record": ((size,), torch.uint8)})
    geometry = Geometry(layers, experts, 2, 1, 1, layout.bytes)
    with Packer(folder, layout, geometry, {"synthetic": size}) as packer:
        for layer in range(layers):
            if layer in packer.done:
                continue
            for index in range(experts):
                packer.put(Expert(layer, index), {"record": torch.randint(256, (size,)).byte()})
    return DiskStore(folder, layout, geometry)


def raw_seconds(store: DiskStore, order: list[Expert], threads: int) -> float:
    """Seconds of plain direct reads of these records by so many threads, nothing else done."""
    with ExitStack() as stack:
        files = []
        for layer in range(store.geometry.layers):
            files.append(os.open(layer_file(store.folder, layer), os.O_RDONLY | DIRECT))
            stack.callback(os.close, files[-1])
        size, todo = store.layout.bytes, iter(order)
        memory = paged(max(threads * size, 2 * HUGE)).fill_(1)  # in huge pages, as slots are
        buffers = [record.numpy().data for record in memory[: threads * size].split(size)]

        def read(buffer: memoryview) -> None:
            for expert in todo:
                done = os.preadv(files[expert.layer], [buffer], expert.index * size)
                assert done == size

        readers = [threading.Thread(target=read, args=[buffer]) for buffer in buffers]
        started = perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return perf_counter() - started
