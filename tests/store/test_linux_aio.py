"""Reads by the kernel, without a link around them."""

from __future__ import annotations

import pytest
import torch
from records import LAYOUT, B, need, opened, pack

from moex.store.linux_aio import AsyncReads, Request
from moex.store.slots import paged

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure


@pytest.fixture
def store(tmp_path):
    store = opened(pack(tmp_path / "p"))
    yield store
    store.close()


def test_requests_into_memory_of_ours(store):
    need(AsyncReads, store)
    memory = paged(3 * 4096).fill_(7)
    reads = AsyncReads(2, memory)
    file, offset = store.where(B)
    assert reads.begin([Request(5, file, memory.data_ptr() + 4096, 4096, offset)]) == 1
    assert reads.ended(wait=True) == [(5, 4096)]
    assert not reads.any_ended()
    assert reads.ended(wait=False) == []
    expected = torch.empty(LAYOUT.bytes, dtype=torch.uint8)
    store.read(B, expected)
    assert torch.equal(memory[4096:8192], expected[:4096])
    assert (memory[:4096] == 7).all()
    assert (memory[8192:] == 7).all()
    with pytest.raises(OSError, match="io_submit"):
        reads.begin([Request(5, 1 << 20, memory.data_ptr(), 4096, 0)])
    reads.close()
    reads.close()
