"""A packed folder of three layers of four small experts, each a record of two pages."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer
from moex.types import Expert, Geometry, Load, Plan

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = Planes({"up": ((40, 33), torch.float32), "down": ((33, 40), torch.bfloat16)})
GEOMETRY = Geometry(3, 4, 2, 33, 40, LAYOUT.bytes)
SOURCE = {"files": "none"}
EXPERTS = [Expert(layer, index) for layer in range(3) for index in range(4)]
A, B, C, D = Expert(0, 1), Expert(1, 2), Expert(2, 3), Expert(0, 3)


def tensors(expert: Expert) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(10 * expert.layer + expert.index)
    return {
        "up": torch.randn(40, 33, generator=draw),
        "down": torch.randn(33, 40, generator=draw).bfloat16(),
    }


def holds(record: torch.Tensor, expert: Expert) -> bool:
    expected = tensors(expert)
    views = LAYOUT.views(record)
    return all(torch.equal(views[name], expected[name]) for name in views)


def give(packer: Packer, until: int = len(EXPERTS)) -> None:
    for expert in EXPERTS[:until]:
        if expert.layer not in packer.done:
            packer.put(expert, tensors(expert))


def pack(folder: Path) -> Path:
    with Packer(folder, LAYOUT, GEOMETRY, SOURCE) as packer:
        give(packer)
    return folder


def opened(folder: Path, **options: Any) -> DiskStore:
    return DiskStore(folder, LAYOUT, GEOMETRY, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def handles() -> int:
    gc.collect()  # what an earlier test left to it
    return len(os.listdir("/proc/self/fd"))


def load(*experts: Expert, speculative: bool = False, first: int = 0) -> Plan:
    """A plan that loads experts into places from `first` on."""
    loads = [Load(e, first + n, None, speculative) for n, e in enumerate(experts)]
    return Plan(0, loads=tuple(loads))


def need(kind: Any, store: DiskStore) -> None:
    """Skip a test where the kernel has no such reads for us."""
    try:
        kind(1, None).close()
    except OSError:
        pytest.skip("no such reads here")
    if store.io != "direct":
        pytest.skip("no direct reads here")
