"""Fits latency and bandwidth of a link to loads of several sizes.

One bandwidth is that of one size: a disk reads large records faster than small ones. So records of
a sixteenth of an expert's size to four times its size are moved, by the link that moves experts of
that size, from the medium that the model's store is on; nothing is computed meanwhile.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moex.cache.memory import Memory
from moex.link.base import open_link
from moex.runner.meter import synchronize
from moex.store.disk import DiskStore
from moex.store.layout import PAGE, Planes
from moex.store.packing import Packer
from moex.types import Expert, Geometry, Load, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moex.runner.assemble import LoadedModel
    from moex.store.base import ExpertStore

FACTORS = (1 / 16, 1 / 4, 1, 4)
"""Sizes of records, in experts."""

LARGEST, HELD = 128 << 20, 64 << 20
"""Bytes of a record larger than an expert, at most, and about of all records of one size."""

ROUNDS = 9


def load_seconds(loaded: LoadedModel, together: int) -> dict[int, float]:
    """Return the seconds of a load by record size, `together` loads being submitted at once."""
    size = loaded.geometry.expert_bytes
    sizes = {max(PAGE, round(factor * size) // PAGE * PAGE) for factor in FACTORS}
    sizes = {each for each in sizes if each <= max(size, LARGEST)}
    return {each: _seconds(loaded, each, together) for each in sorted(sizes)}


def fit(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Return (latency in s, bytes/s) of the loads: least squares of the relative errors.

    The latency is not negative.

    Args:
        seconds: of a load, by its bytes; at least one.
    """
    took = np.asarray(list(seconds.values()))
    design = np.stack([1 / took, np.asarray(list(seconds)) / took], axis=1)
    latency_s, byte_s = np.linalg.lstsq(design, np.ones(len(took)), rcond=None)[0]
    if latency_s < 0 or byte_s <= 0 or len(took) == 1:
        latency_s, byte_s = 0.0, design[:, 1].sum() / np.square(design[:, 1]).sum()
    return float(latency_s), float(1 / byte_s)


def _seconds(loaded: LoadedModel, size: int, together: int) -> float:
    """Median seconds of a load of `size` bytes, over rounds of `together` loads."""
    layout = Planes({"record": ((size,), torch.uint8)})
    count = max(2, together, min(16, HELD // size))
    with tempfile.TemporaryDirectory(prefix="moex-", dir=_folder(loaded.store)) as folder:
        store = _filled(loaded.store, layout, Geometry(1, count, 1, 1, 1, size), Path(folder))
        slots = layout.slots(together, 1, loaded.device)
        with closing(store), closing(open_link(store, slots, Memory(together))) as link:
            rounds = []
            for number in range(ROUNDS + count):  # every record once before: checksums are compared
                loads = [
                    Load(Expert(0, (number * together + slot) % count), slot)
                    for slot in range(together)
                ]
                synchronize()
                started = perf_counter()
                link.submit(Plan(number, loads=tuple(loads)))
                for load in loads:
                    link.wait(load.slot)
                synchronize()
                rounds.append((perf_counter() - started) / together)
    return median(rounds[count:])


def _folder(store: ExpertStore) -> Path | None:
    """Where files are on the same disk."""
    return store.folder.parent if isinstance(store, DiskStore) else None


def _filled(like: ExpertStore, layout: Planes, geometry: Geometry, folder: Path) -> ExpertStore:
    """A store of the same kind, with random records."""
    kind: Any = type(like)
    record = torch.randint(256, (layout.bytes,), dtype=torch.uint8)
    experts = [Expert(0, index) for index in range(geometry.experts)]
    if kind.from_files:
        with Packer(folder, layout, geometry, {}) as packer:
            for expert in experts:
                packer.put(expert, layout.views(record))
        return kind(folder, layout, geometry)
    store = kind(layout, geometry)
    for expert in experts:
        store.write(expert, record)
    return store
