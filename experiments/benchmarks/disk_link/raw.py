"""Records of random bytes, and plain direct reads of records: the other side of `bench.py`."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from itertools import cycle
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


RECORDS = 4
"""Records that are read into, in turns, on both sides: one alone would stay in the CPU's cache."""


def raw_seconds(store: DiskStore, order: list[Expert], threads: int) -> float:
    """Seconds of plain direct reads of these records by so many threads, nothing else done."""
    with ExitStack() as stack:
        files = []
        for layer in range(store.geometry.layers):
            files.append(os.open(layer_file(store.folder, layer), os.O_RDONLY | DIRECT))
            stack.callback(os.close, files[-1])
        size, todo = store.layout.bytes, iter(order)
        memory = paged(max(RECORDS * size, 2 * HUGE)).fill_(1)  # in huge pages, as slots are
        buffers = [record.numpy().data for record in memory[: RECORDS * size].split(size)]

        def read(own: list[memoryview]) -> None:
            for expert, buffer in zip(todo, cycle(own)):
                done = os.preadv(files[expert.layer], [buffer], expert.index * size)
                assert done == size

        shares = [buffers[number::threads] for number in range(threads)]
        readers = [threading.Thread(target=read, args=[share]) for share in shares]
        started = perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return perf_counter() - started
