"""Neurons as runs of bytes: packed, gathered from memory and from files, laid into planes."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from moex.runner.assemble import load_model
from moex.store.bundles import Bundles
from moex.store.disk import DiskStore
from moex.store.packing import Packer
from moex.store.ram import RamStore
from moex.store.row_slots import RowSlots, bitmaps_of, members
from moex.store.slots import paged
from moex.types import Expert, Geometry, Load

NEURONS, HIDDEN = 100, 24  # a neuron of 288 bytes: pages cut through neurons
SHAPES = {
    "gate_up_proj": ((2 * NEURONS, HIDDEN), torch.float32),
    "down_proj": ((HIDDEN, NEURONS), torch.float32),
}
LAYOUT = Bundles(SHAPES)
GEOMETRY = Geometry(1, 2, 1, HIDDEN, NEURONS, LAYOUT.bytes)
ALL = (1 << NEURONS) - 1
CHOICES = [[0], [99], [3, 4, 5], [0, 13, 14, 15, 60, 99], list(range(0, 100, 7)), list(range(100))]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, (shape, _) in SHAPES.items()}


def packed(folder) -> None:
    with Packer(folder, LAYOUT, GEOMETRY, {}) as packer:
        for index in range(2):
            packer.put(Expert(0, index), tensors(index))


@pytest.fixture(params=["ram", "direct", "buffered"])
def store(request, tmp_path):
    if request.param == "ram":
        made = RamStore(LAYOUT, GEOMETRY)
        for index in range(2):
            made.put(Expert(0, index), tensors(index))
    else:
        packed(tmp_path)
        made = DiskStore(tmp_path, LAYOUT, GEOMETRY, direct=request.param == "direct")
    yield made
    made.close()


@pytest.mark.parametrize("rows", CHOICES, ids=len)
def test_a_neuron_is_its_gate_row_up_row_and_down_column(store, rows):
    found = store.gather(Expert(0, 1), np.array(rows))
    gate_up, down = tensors(1)["gate_up_proj"], tensors(1)["down_proj"]
    assert torch.equal(found[:, 0], gate_up[rows])
    assert torch.equal(found[:, 1], gate_up[NEURONS:][rows])
    assert torch.equal(found[:, 2], down.T[rows])
    assert torch.equal(store.gather(Expert(0, 1), None)[rows], found)


@pytest.mark.parametrize("direct", [True, False])
def test_a_changed_row_is_found_when_it_is_read_and_no_sooner(tmp_path, direct):
    packed(tmp_path)
    path, row = tmp_path / "layer-000.records", LAYOUT.bytes + 7 * LAYOUT.row_bytes
    data = bytearray(path.read_bytes())
    data[row + 17] ^= 1
    path.write_bytes(data)
    store = DiskStore(tmp_path, LAYOUT, GEOMETRY, direct)
    for _ in range(2):
        store.gather(Expert(0, 0), np.arange(100))
        store.gather(Expert(0, 1), np.array([0, 6, 8]))
        with pytest.raises(RuntimeError, match=r"expert 1 of layer 0 .* neuron 7 .* remove"):
            store.gather(Expert(0, 1), np.array([6, 7]))
    store.close()


def test_every_row_is_compared_once(tmp_path, monkeypatch):
    packed(tmp_path)
    store, compared, crc = DiskStore(tmp_path, LAYOUT, GEOMETRY), [], zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: compared.append(len(data)) or crc(data))
    for rows in ([3, 4, 5], [4, 5, 6], [3, 4, 5, 6]):
        store.gather(Expert(0, 0), np.array(rows))
    assert compared == 4 * [LAYOUT.row_bytes]
    store.gather(Expert(0, 1), None)
    store.gather(Expert(0, 1), np.array([1, 2]))
    assert compared == 104 * [LAYOUT.row_bytes]
    store.read(Expert(0, 1), paged(LAYOUT.bytes))
    store.read(Expert(0, 1), paged(LAYOUT.bytes))
    assert compared == [*104 * [LAYOUT.row_bytes], LAYOUT.bytes]
    store.close()


def test_threads_read_rows_side_by_side(tmp_path):
    packed(tmp_path)
    store, down = DiskStore(tmp_path, LAYOUT, GEOMETRY), tensors(1)["down_proj"].T

    def right(rows: list[int]) -> bool:
        found = (store.gather(Expert(0, 1), np.array(rows)) for _ in range(20))
        return all(torch.equal(each[:, 2], down[rows]) for each in found)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, 4 * CHOICES))
    store.close()


@pytest.mark.parametrize("content", [None, b"", bytes(799)])
def test_lost_checksums_of_rows_are_refused_when_opened(tmp_path, content):
    packed(tmp_path)
    (tmp_path / "layer-000.rows").unlink()
    if content is not None:
        (tmp_path / "layer-000.rows").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"layer-000.rows has \d+ checksums, not 200.*remove"):
        DiskStore(tmp_path, LAYOUT, GEOMETRY)


def as_bitmap(rows: list[int]) -> int:
    return sum(1 << row for row in rows)


def load(rows: list[int] | None) -> Load:
    return Load(Expert(0, 1), 0, None if rows is None else as_bitmap(rows).to_bytes(13, "little"))


def test_a_whole_place_has_row_j_at_position_j(store):
    slots = RowSlots(LAYOUT, NEURONS, slots=2)
    for rows in ([5, 6, 70], [1]):
        slots.bring(store, load(rows))()
    planes, kept = slots.tensors[0], [1, 5, 6, 70]
    gate_up = torch.zeros(2 * NEURONS, HIDDEN)
    gate_up[kept] = tensors(1)["gate_up_proj"][kept]
    gate_up[[NEURONS + row for row in kept]] = tensors(1)["gate_up_proj"][NEURONS:][kept]
    assert torch.equal(planes["gate_up"], gate_up)
    assert torch.equal(planes["down"][kept], tensors(1)["down_proj"].T[kept])
    slots.bring(store, load(None))()
    assert torch.equal(planes["gate_up"], tensors(1)["gate_up_proj"])
    assert torch.equal(planes["down"], tensors(1)["down_proj"].T)


def test_a_record_of_a_place_is_read_without_being_laid_out(tmp_path):
    packed(tmp_path / "rows")
    store, beside = DiskStore(tmp_path / "rows", LAYOUT, GEOMETRY), LAYOUT.planes(NEURONS)
    with Packer(tmp_path / "whole", beside, GEOMETRY, {}) as packer:
        for index in range(2):
            packer.put(Expert(0, index), tensors(index))
    slots, thin = RowSlots(LAYOUT, NEURONS, slots=1), RowSlots(LAYOUT, 4, slots=1)
    assert slots.whole(store) is None
    whole = store.whole = DiskStore(tmp_path / "whole", beside, GEOMETRY)
    assert slots.whole(store) is whole
    assert thin.whole(store) is None
    slots.bring(store, load(None))()
    assert torch.equal(slots.tensors[0]["gate_up"], tensors(1)["gate_up_proj"])
    assert torch.equal(slots.tensors[0]["down"], tensors(1)["down_proj"].T)
    store.close()
    with pytest.raises(RuntimeError, match="cannot read expert 1"):
        whole.read(Expert(0, 1), paged(beside.bytes))


def test_a_thin_place_says_which_row_is_where(store):
    slots = RowSlots(LAYOUT, 4, slots=2)
    for held, moved in (([5, 9, 70], [5, 9, 70]), ([5, 8, 9, 99], [8, 99]), ([1, 9], None)):
        slots.hold(load(moved), as_bitmap(held))
        slots.bring(store, load(moved))()
        table = slots.tables[0].tolist()
        for rows in ([9], held[:1], []):
            here = [row in rows for row in table]
            assert slots.without(0, as_bitmap(rows)).tolist() == [not each for each in here]
        assert sorted(row for row in table if row >= 0) == held
        for position, row in enumerate(table):
            if row >= 0:
                both = slots.tensors[0]["gate_up"].view(2, 4, HIDDEN)[:, position]
                wanted = tensors(1)["gate_up_proj"].view(2, NEURONS, HIDDEN)[:, row]
                assert torch.equal(both, wanted)
                assert torch.equal(
                    slots.tensors[0]["down"][position], tensors(1)["down_proj"].T[row]
                )
    slots.hold(load([9]), as_bitmap([9]))  # another expert's row 9
    assert slots.tables[0].tolist() == [9, -1, -1, -1]


@pytest.mark.parametrize("rows", CHOICES, ids=len)
def test_masks_and_bitmaps_are_the_same_sets(rows):
    mask = torch.zeros(NEURONS, dtype=torch.bool)
    mask[rows] = True
    assert bitmaps_of(torch.stack([mask, ~mask])) == [as_bitmap(rows), ALL ^ as_bitmap(rows)]
    assert members(as_bitmap(rows).to_bytes(13, "little")).tolist() == rows


@pytest.mark.parametrize(
    "shapes",
    [
        {**SHAPES, "gate_up_proj_bias": ((2 * NEURONS,), torch.float32)},
        {"gate_up_proj": ((HIDDEN, 2 * NEURONS), torch.float32), "down_proj": SHAPES["down_proj"]},
        {"up_proj": ((NEURONS, HIDDEN), torch.float32), "down_proj": SHAPES["down_proj"]},
    ],
    ids=["biased", "transposed", "no gate"],
)
def test_other_experts_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected gate_up_proj \[2 \* intermediate, hidden\]"):
        Bundles(shapes)


def test_without_a_selector_bundles_are_not_computed_with(mixtral):
    from moex.cache.lru import LRU
    from moex.runner.assemble import Setup, offload
    from moex.sparsity.random import Random

    with pytest.raises(ValueError, match="expected bundles=True for a selector"):
        offload(load_model(str(mixtral), bundles=True), Setup(LRU()))
    with pytest.raises(ValueError, match="expected bundles=True for a selector"):
        offload(load_model(str(mixtral)), Setup(LRU(), selector=Random()))
