"""Memory for records lies where direct reads and computing are quick."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from records import LAYOUT

from moex.store.layout import PAGE
from moex.store.slots import HUGE, Slots, paged

MAPS = Path("/proc/self/smaps")


def flags(address: int) -> str:
    """The kernel's words about the mapping that holds an address."""
    inside = False
    for line in MAPS.read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line
    return ""


@pytest.mark.parametrize("size", [1, PAGE, HUGE - 1, HUGE, 2 * HUGE + 5])
def test_memory_begins_at_a_page_and_can_be_written(size):
    memory = paged(size)
    assert len(memory) == size
    assert memory.data_ptr() % (HUGE if size >= HUGE else PAGE) == 0
    assert (memory.fill_(7) == 7).all()


@pytest.mark.skipif(
    not MAPS.is_file() or not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="no huge pages here",
)
def test_a_large_memory_may_lie_in_huge_pages_after_the_heap_was_used():
    used = torch.ones(6 * HUGE, dtype=torch.uint8)
    del used
    memory = paged(2 * HUGE + PAGE)
    for slot in (0, HUGE, 2 * HUGE, 3 * HUGE - 1):
        assert " hg" in flags(memory.data_ptr() + slot)


def test_memory_that_is_not_there_is_one_line():
    with pytest.raises(RuntimeError, match=r"memory: \d+ slots .* try a smaller memory\.slots"):
        Slots(LAYOUT, (1 << 62) // LAYOUT.bytes)
    with pytest.raises(RuntimeError, match=r"memory: \d+ slots"):
        Slots(LAYOUT, (1 << 70) // LAYOUT.bytes)
