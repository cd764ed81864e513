"""Links move the right bytes, in time, and leave no thread behind."""

from __future__ import annotations

import threading
from time import perf_counter, sleep

import pytest
import torch
from records import opened, pack

from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.link import emulated
from moex.link.base import open_link
from moex.link.copy import CopyLink
from moex.link.disk import DiskLink
from moex.link.emulated import EmulatedLink
from moex.store.layout import Planes
from moex.store.ram import RamStore
from moex.store.slots import Slots
from moex.types import Eviction, Expert, Geometry, Load, Plan


@pytest.fixture
def store():
    layout = Planes({"up": ((3, 5), torch.float32), "down": ((5, 3), torch.bfloat16)})
    store = RamStore(layout, Geometry(2, 4, 2, 5, 3, layout.bytes))
    for layer in range(2):
        for index in range(4):
            value = 10 * layer + index
            tensors = {"up": torch.full((3, 5), value), "down": torch.full((5, 3), -value)}
            store.put(Expert(layer, index), tensors)
    return store


def test_the_link_follows_store_slots_and_hardware(store, tmp_path):
    slots = Slots(store.layout, 2)
    slow = HardwareProfile("slow", link_bytes_per_s=1e9)
    assert type(open_link(store, slots, Memory())) is CopyLink
    link = open_link(store, slots, Memory(), slow)
    assert type(link) is EmulatedLink
    link.close()
    files = opened(pack(tmp_path / "p"))
    slots = Slots(files.layout, 2)
    link = open_link(files, slots, Memory())
    assert link.name == "disk"
    link.close()
    link = open_link(files, slots, Memory(link="disk", reader_threads=2))
    assert (type(link), len(link._threads)) == (DiskLink, 2)
    link.close()
    assert type(open_link(files, slots, Memory(link="copy"))) is CopyLink
    files.close()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("tape", r"=tape: expected one of auto, aio, copy, cuda, disk, emulated, or the dotted"),
        ("os.path.join", r"=os.path.join: .*; expected the dotted name of a Link on PYTHONPATH"),
        ("nowhere.Fast", r"=nowhere.Fast: No module named 'nowhere'; expected the dotted name"),
        ("disk", r"=disk: is no link from memory.store=ram to these slots on cpu"),
        ("emulated", r"=emulated: is no link from memory.store=ram to these slots on cpu"),
    ],
)
def test_a_link_that_is_none_or_does_not_suit_is_one_line(store, word, line):
    with pytest.raises(ValueError, match=rf"^memory.link{line}.*; try memory.link=auto$"):
        open_link(store, Slots(store.layout, 2), Memory(link=word))


@pytest.fixture(params=["by the thread", "at once"])
def copied(request, monkeypatch):
    """Records of this size are copied at once; those of real experts by the link's thread."""
    if request.param == "by the thread":
        monkeypatch.setattr(emulated, "SMALL", 0)


def holds(slots: Slots, slot: int, value: int) -> bool:
    tensors = slots.tensors[slot]
    return bool((tensors["up"] == value).all() and (tensors["down"] == -value).all())


def test_records_are_aligned_and_hold_the_tensors(store):
    assert store.layout.bytes == 4096
    assert [part.offset for part in store.layout.parts] == [0, 64]


def test_a_plain_copy_is_there_at_once(store):
    slots = Slots(store.layout, 3)
    link = CopyLink(store, slots)
    link.submit(Plan(0, loads=(Load(Expert(1, 2), 0), Load(Expert(0, 3), 2))))
    link.wait(0)
    assert holds(slots, 0, 12)
    assert holds(slots, 2, 3)
    assert link.stats().bytes_moved == 2 * 4096


def test_a_plain_copy_hides_nothing_not_even_a_guess(store):
    link = CopyLink(store, Slots(store.layout, 2))
    prefetch = Load(Expert(0, 3), 1, speculative=True)
    link.submit(Plan(0, loads=(Load(Expert(1, 2), 0), prefetch)))
    assert not link.wait(1)  # it is there, and not late
    assert link.wait(0)
    assert link.stats().stall_s == pytest.approx(link.stats().busy_s) != 0


@pytest.mark.usefixtures("copied")
def test_an_emulated_load_arrives_no_sooner_than_the_profile_says(store):
    slots = Slots(store.layout, 2)
    profile = HardwareProfile("slow", link_bytes_per_s=4096 / 0.1)
    link = EmulatedLink(store, slots, profile)
    started = perf_counter()
    link.submit(Plan(0, loads=(Load(Expert(0, 1), 0), Load(Expert(0, 2), 1))))
    late = link.wait(0), link.wait(1)
    took = perf_counter() - started
    link.close()
    assert took >= 0.2
    assert late == (True, True)
    assert 0.1 < link.stats().stall_s <= took
    assert holds(slots, 0, 1)
    assert holds(slots, 1, 2)
    assert not link.wait(0)


@pytest.mark.usefixtures("copied")
def test_a_place_used_again_holds_what_was_loaded_last(store):
    slots = Slots(store.layout, 1)
    link = EmulatedLink(store, slots, HardwareProfile("fast", link_bytes_per_s=1e9))
    for turn in range(200):
        prefetch = Load(Expert(0, turn % 4), 0, speculative=True)
        link.submit(Plan(turn, loads=(prefetch,)))
        wanted = Load(Expert(1, (turn + 1) % 4), 0)
        link.submit(Plan(turn, loads=(wanted,), dropped=(Eviction(prefetch.expert, 0),)))
        link.wait(0)
        assert holds(slots, 0, 10 + (turn + 1) % 4)
    link.close()


class Blocked(Slots):
    """Copies when it is allowed to."""

    def __init__(self, *given):
        super().__init__(*given)
        self.allowed, self.copying = threading.Event(), threading.Event()

    def bring(self, store, load):
        copy = super().bring(store, load)

        def blocked():
            self.copying.set()
            assert self.allowed.wait(10)
            copy()

        return blocked


@pytest.fixture
def blocked(store, monkeypatch):
    monkeypatch.setattr(emulated, "SMALL", 0)
    slots = Blocked(store.layout, 2)
    link = EmulatedLink(store, slots, HardwareProfile("fast", link_bytes_per_s=1e12))
    yield link
    slots.allowed.set()
    link.close()


def test_waiting_for_bytes_that_come_later_than_they_would_there_is_stall(blocked):
    blocked.submit(Plan(0, loads=(Load(Expert(0, 1), 0),)))
    sleep(0.001)  # on the modelled link they are through
    threading.Timer(0.2, blocked.slots.allowed.set).start()
    assert blocked.wait(0)
    stalled = blocked.stall_s
    assert stalled > 0
    assert holds(blocked.slots, 0, 1)
    blocked.submit(Plan(1, loads=(Load(Expert(0, 2), 1),)))
    while not all(copy.arrived for copy in blocked._expected[1]):
        sleep(0.001)
    sleep(0.001)
    assert not blocked.wait(1)
    assert blocked.stall_s == stalled


def test_waiting_for_the_end_of_a_copy_that_nobody_wants_is_stall(blocked):
    prefetch = Load(Expert(0, 1), 0, speculative=True)
    blocked.submit(Plan(0, loads=(prefetch,)))
    assert blocked.slots.copying.wait(10)
    threading.Timer(0.2, blocked.slots.allowed.set).start()
    blocked.submit(Plan(1, loads=(Load(Expert(1, 2), 0),), dropped=(Eviction(prefetch.expert, 0),)))
    assert blocked.stats().stall_s > 0
    blocked.wait(0)
    assert holds(blocked.slots, 0, 12)


def test_closing_leaves_no_thread(store):
    before = threading.active_count()
    link = EmulatedLink(store, Slots(store.layout, 1), HardwareProfile("x", link_bytes_per_s=1e9))
    link.close()
    assert threading.active_count() == before


@pytest.mark.usefixtures("copied")
def test_a_failing_store_is_reported_by_the_wait(store):
    link = EmulatedLink(store, Slots(store.layout, 1), HardwareProfile("x", link_bytes_per_s=1e9))
    link.submit(Plan(0, loads=(Load(Expert(0, 9), 0),)))
    with pytest.raises(RuntimeError, match="copying thread failed"):
        link.wait(0)
    link.close()


def test_an_interrupted_copy_of_the_computing_thread_is_an_interruption(store, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "read", stopped)
    link = EmulatedLink(store, Slots(store.layout, 1), HardwareProfile("x", link_bytes_per_s=1e9))
    with pytest.raises(KeyboardInterrupt):
        link.submit(Plan(0, loads=(Load(Expert(0, 1), 0),)))
    link.close()


def test_a_closed_link_waits_for_no_guess_that_the_books_drop_later(blocked):
    prefetches = tuple(Load(Expert(0, number), number, speculative=True) for number in range(2))
    blocked.submit(Plan(0, loads=prefetches))
    assert blocked.slots.copying.wait(10)
    threading.Timer(0.02, blocked.slots.allowed.set).start()
    blocked.close()
    blocked.submit(
        Plan(1, dropped=tuple(Eviction(prefetch.expert, prefetch.slot) for prefetch in prefetches))
    )
    assert blocked.stats().stall_s == 0.0
