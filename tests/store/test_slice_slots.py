"""Slots of slices: each is moved to its own slot, from memory and from files, and checked."""

from __future__ import annotations

import pytest
import torch

from moex.quant.packing import ExpertPacking
from moex.quant.sliced import Sliced
from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer, layer_file
from moex.store.ram import RamStore
from moex.store.slice_slots import SliceSlots
from moex.types import Expert, Geometry, Load

SPEC = {"gate_up_proj": ((192, 64), torch.float32), "down_proj": ((64, 96), torch.float32)}
PACKING = ExpertPacking(SPEC, Sliced(), transposed=False)
LAYOUT = Planes(PACKING.tensors, PACKING.bind, PACKING.refining)
HIGH, LOW = (0, LAYOUT.slices[0]), (LAYOUT.slices[0], LAYOUT.bytes)
GEOMETRY = Geometry(2, 3, 1, 64, 96, LAYOUT.bytes)


def weights(expert: Expert) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(10 * expert.layer + expert.index)
    return {name: torch.randn(shape, generator=draw) / 50 for name, (shape, _) in SPEC.items()}


@pytest.fixture(params=["ram", "disk", "plain"])
def store(request, tmp_path):
    experts = [Expert(layer, index) for layer in range(2) for index in range(3)]
    if request.param == "disk":
        with Packer(tmp_path, LAYOUT, GEOMETRY, {}) as packer:
            for expert in experts:
                packer.put(expert, PACKING.pack(weights(expert)))
        made = DiskStore(tmp_path, LAYOUT, GEOMETRY)
    else:
        made = RamStore(LAYOUT, GEOMETRY)
        for expert in experts:
            made.put(expert, PACKING.pack(weights(expert)))
    if request.param == "plain":  # as a store of one's own has it: no method for slices
        made.read_slice = super(RamStore, made).read_slice
    yield made
    made.close()


def test_each_slice_is_moved_to_its_slot_and_any_pair_computes(store):
    slots, expert = SliceSlots(LAYOUT, 2, 3), Expert(1, 2)
    assert slots.bytes == 2 * LAYOUT.slices[0] + 3 * LAYOUT.slices[1]
    slots.bring(store, Load(expert, 1, span=HIGH))()
    quantizer, packed = Sliced(), PACKING.pack(weights(expert))
    for name in SPEC:
        own = {part: packed[f"{name}.{part}"] for part in quantizer.tensors((64, 64))}
        high = {k: v for k, v in own.items() if k not in quantizer.refining}
        few = quantizer.unpack(high, torch.float32)
        assert torch.equal(slots.tensors[1][name].unpack(torch.float32), few)
        slots.bring(store, Load(expert, 4, span=LOW))()
        whole = quantizer.unpack(own, torch.float32)
        assert torch.equal(slots.both(1, 4)[name].unpack(torch.float32), whole)
        assert not torch.equal(few, whole)
    slots.close()
    assert slots.bytes > 0
    assert not len(slots.records)


def test_a_slice_that_is_not_what_was_packed_is_refused(tmp_path):
    with Packer(tmp_path, LAYOUT, GEOMETRY, {}) as packer:
        for layer in range(2):
            for index in range(3):
                expert = Expert(layer, index)
                packer.put(expert, PACKING.pack(weights(expert)))
    file = layer_file(tmp_path, 1)
    data = bytearray(file.read_bytes())
    data[LAYOUT.slices[0]] ^= 1
    file.write_bytes(data)
    store, slots = DiskStore(tmp_path, LAYOUT, GEOMETRY), SliceSlots(LAYOUT, 1, 1)
    slots.bring(store, Load(Expert(1, 0), 0, span=HIGH))()
    with pytest.raises(RuntimeError, match="a slice is not the one that was packed"):
        slots.bring(store, Load(Expert(1, 0), 1, span=LOW))()
    with pytest.raises(RuntimeError, match="its checksum is not the one"):
        store.verify()
    store.close()


def test_too_many_slots_are_refused_in_one_line():
    with pytest.raises(RuntimeError, match=r"slots for experts take .* try a smaller memory.slots"):
        SliceSlots(LAYOUT, 10**12, 10**12)
