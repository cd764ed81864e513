"""Reads that fail, are refused or interrupted, and links that end: nothing hangs or is lost."""

from __future__ import annotations

import errno
import gc
import os
import weakref

import pytest
from records import LAYOUT, A, B, C, D, handles, holds, load

from moex.link.aio import AioLink
from moex.store.slots import Slots

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure


def _all_end_with(result, ended):
    return lambda self, wait: [(tag, result) for tag, _ in ended(self, wait)]


@pytest.mark.parametrize("result", [-errno.EIO, 0, 4096])
def test_a_read_that_fails_is_done_again_and_says_what_the_store_says(
    store, slots, link, kind, monkeypatch, result
):
    def fail(file, buffers, offset):
        raise OSError(errno.EIO, "Input/output error")

    ended = kind.ended
    with monkeypatch.context() as broken:
        broken.setattr(kind, "ended", _all_end_with(result, ended))
        link.submit(load(A))
        link.wait(0)
        assert holds(slots.records[0], A)
        broken.setattr(os, "preadv", fail)
        link.submit(load(B))
        with pytest.raises(RuntimeError, match=r"expert 2 of layer 1 .* Input/output error"):
            link.wait(0)
    link.submit(load(D))
    link.wait(0)
    assert holds(slots.records[0], D)
    assert link.stats().bytes_moved == 2 * LAYOUT.bytes


def test_reads_that_the_kernel_refuses_are_the_stores(store, slots, link, kind, monkeypatch):
    begin = kind.begin
    monkeypatch.setattr(kind, "begin", lambda self, requests: begin(self, requests[:1]))
    link.submit(load(A, B))
    monkeypatch.setattr(kind, "begin", lambda *_: (_ for _ in ()).throw(OSError(11, "busy")))
    link.submit(load(C, first=2))
    for slot, expert in enumerate((A, B, C)):
        link.wait(slot)
        assert holds(slots.records[slot], expert)


@pytest.mark.parametrize("where", ["before", "after", "waiting"])
def test_an_interruption_leaves_a_link_that_works(store, slots, link, kind, monkeypatch, where):
    begin, ended = kind.begin, kind.ended

    def interrupted(self, given=(), wait=None):
        if where == "after":
            begin(self, given)
        raise KeyboardInterrupt

    name = "ended" if where == "waiting" else "begin"
    with monkeypatch.context() as broken:
        broken.setattr(kind, name, interrupted)
        if where == "waiting":
            link.submit(load(A, B))
        with pytest.raises(KeyboardInterrupt):
            link.wait(0) if where == "waiting" else link.submit(load(A, B))
    assert kind.ended is ended
    link.submit(load(C))
    link.wait(0)
    link.wait(1)
    assert holds(slots.records[0], C)
    assert holds(slots.records[1], B)


def test_closing_waits_for_the_kernel_also_when_nobody_closes(store, folder, kind):
    before = handles()
    for close in (True, False):
        slots = Slots(LAYOUT, 4)
        link = AioLink(store, slots)
        link.submit(load(A, speculative=True))
        link.submit(load(B, first=1))
        memory = weakref.ref(slots.records)
        if close:
            link.close()
            assert all(holds(slots.records[n], e) for n, e in enumerate((A, B)))
            link.close()
        del link, slots
        gc.collect()
        assert memory() is None
    assert handles() == before


def test_a_forked_child_reads_for_itself(store, slots, link):
    link.submit(load(A, speculative=True))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            link.submit(load(B, C, first=1))
            link.wait(1)
            link.wait(2)
            code = not (holds(slots.records[1], B) and holds(slots.records[2], C))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    link.wait(0)
    assert holds(slots.records[0], A)
