"""A packed folder of three layers of four small experts, each a record of two pages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.pack import Packer
from moex.types import Expert, Geometry

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = Planes({"up": ((40, 33), torch.float32), "down": ((33, 40), torch.bfloat16)})
GEOMETRY = Geometry(3, 4, 2, 33, 40, LAYOUT.bytes)
SOURCE = {"files": "none"}
EXPERTS = [Expert(layer, index) for layer in range(3) for index in range(4)]


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
    return len(os.listdir("/proc/self/fd"))
