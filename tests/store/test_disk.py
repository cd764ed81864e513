"""The disk store gives what was packed, or one clear line, and leaves no handle behind."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from records import EXPERTS, GEOMETRY, LAYOUT, handles, holds, opened, pack

from moex.store.disk import DiskStore
from moex.store.slots import Slots, paged
from moex.types import Expert


@pytest.fixture
def folder(tmp_path):
    return pack(tmp_path / "packed")


def flip(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("direct", [True, False])
def test_every_expert_reads_as_it_was_packed(folder, direct, monkeypatch):
    monkeypatch.setattr("moex.store.disk.BOUNCE", LAYOUT.bytes // 2)
    store = opened(folder, direct=direct)
    aligned, unaligned = paged(LAYOUT.bytes), paged(LAYOUT.bytes + 64)[64:]
    for expert in EXPERTS:
        for out in aligned, unaligned:
            out.zero_()
            store.read(expert, out)
            assert holds(out, expert)
    store.verify()
    store.close()
    assert store.files_warm == (store.io == "buffered")


def test_slots_begin_at_pages():
    slots = Slots(LAYOUT, 5)
    assert all(record.data_ptr() % 4096 == 0 for record in slots.records)
    assert slots.bytes == 5 * 8192


def test_a_file_system_that_refuses_direct_reads_is_read_buffered(folder, monkeypatch, caplog):
    def refuse(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really(path, flags, *rest)

    really = os.open
    monkeypatch.setattr(os, "open", refuse)
    store = opened(folder)
    out = paged(LAYOUT.bytes)
    store.read(EXPERTS[5], out)
    store.close()
    assert holds(out, EXPERTS[5])
    assert (store.io, store.files_warm) == ("buffered", True)
    assert "direct reads are not possible in" in caplog.text


def test_closing_gives_back_every_handle(folder):
    before = handles()
    store = opened(folder)
    assert handles() == before + GEOMETRY.layers + 1  # the folder: it is in use
    store.close()
    assert handles() == before
    store = opened(folder)
    del store  # nobody closes it
    assert handles() == before


def test_a_file_cut_short_is_refused_when_opened(folder):
    os.truncate(folder / "layer-001.records", 5000)
    before = handles()
    with pytest.raises(RuntimeError, match=r"layer-001.records has 5000 bytes, not 32768.*remove"):
        opened(folder)
    assert handles() == before


def test_a_missing_file_is_refused_when_opened(folder):
    (folder / "layer-002.records").unlink()
    with pytest.raises(RuntimeError, match=r"layer-002.records has 0 bytes"):
        opened(folder)


@pytest.mark.parametrize("text", ["", "{", '{"schema": 0}'])
def test_a_manifest_of_something_else_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RuntimeError, match=r"cannot be read|has another schema"):
        opened(folder)


def test_another_geometry_is_refused(folder):
    with pytest.raises(RuntimeError, match="has another geometry"):
        DiskStore(folder, LAYOUT, GEOMETRY._replace(top_k=3))


def test_a_changed_byte_is_found_at_the_first_read_and_by_verify(folder):
    flip(folder / "layer-002.records", LAYOUT.bytes + 17)
    store = opened(folder)
    out = paged(LAYOUT.bytes)
    store.read(Expert(2, 0), out)
    with pytest.raises(RuntimeError, match=r"expert 1 of layer 2 .* checksum .* remove"):
        store.read(Expert(2, 1), out)
    with pytest.raises(RuntimeError, match="expert 1 of layer 2"):
        store.verify()
    store.close()


def test_checksums_that_were_changed_are_found(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"][0][3] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    store = opened(folder)
    with pytest.raises(RuntimeError, match="expert 3 of layer 0"):
        store.verify()
    store.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [0, 8192, 10_000])
def test_a_file_cut_short_while_open_is_one_line(folder, direct, size):
    store = opened(folder, direct=direct)
    os.truncate(folder / "layer-000.records", size)
    with pytest.raises(RuntimeError, match=r"expert 1 of layer 0 .* the file is too short"):
        store.read(Expert(0, 1), torch.empty(LAYOUT.bytes, dtype=torch.uint8))
    store.close()


def test_a_read_error_is_one_line(folder, monkeypatch):
    store = opened(folder)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(RuntimeError, match=r"expert 0 of layer 1 .* Input/output error; expected"):
        store.read(Expert(1, 0), paged(LAYOUT.bytes))
    store.close()


def test_reads_that_the_system_cuts_up_are_put_together(folder, monkeypatch):
    def a_page(file, buffers, offset):
        return really(file, [buffers[0][:4096]], offset)

    really = os.preadv
    monkeypatch.setattr(os, "preadv", a_page)
    store = opened(folder)
    out = paged(LAYOUT.bytes)
    store.read(EXPERTS[7], out)
    store.close()
    assert holds(out, EXPERTS[7])
