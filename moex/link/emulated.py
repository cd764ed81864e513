"""The link of another machine: real bytes move, paced to the arrival times of a profile."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Self

from moex.hardware.tiered_link import submit, timeline
from moex.link.base import Link, LinkStats, join, refuse_other_streams
from moex.link.host_tier import HostTierStore
from moex.link.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.cache.memory import Memory
    from moex.hardware.link_model import Transfer
    from moex.hardware.profile import HardwareProfile
    from moex.store.base import ExpertStore
    from moex.store.slots import Slots
    from moex.types import Plan

SPIN_S = 200e-6
"""Seconds to which sleeping is precise; the rest of a wait polls the clock."""

SMALL = 1 << 20
"""Bytes whose copy costs the computing thread about as much as handing it to another thread."""

LOOK_S = 1.0
"""Seconds after which a wait for bytes checks that the copying thread is alive."""


def wait_until(moment: float) -> None:
    """Return when `perf_counter` reaches `moment`, exact to its precision."""
    while (rest := moment - perf_counter()) > 0:
        if rest > SPIN_S:
            sleep(rest - SPIN_S)


class _Copy:
    """One load: its transfer on the modelled link, and whether its real bytes have arrived."""

    __slots__ = ("arrived", "load", "slot", "transfer")

    def __init__(self, load: Callable[[], None], slot: int, transfer: Transfer) -> None:
        self.load, self.slot, self.transfer = load, slot, transfer
        self.arrived = False
        """Whether its real bytes are in the slot."""


class EmulatedLink(Link):
    """Copies with its own thread and delays arrivals to those of a profile's link.

    Arrival times come from the same `LinkTimeline` that the simulator uses, driven by the machine's
    clock, so waits are exact to the precision of the clock however busy the copying thread is.
    Loads of at most `SMALL` bytes from memory are copied by the computing thread itself, in time
    that counts as computing.

    Args:
        store: the store to copy from.
        slots: the device slots to copy into.
        profile: bandwidth, latency and chunk size of the link.
    """

    name = "emulated"
    emulated = True
    rank = 1

    @classmethod
    def open(
        cls, store: ExpertStore, slots: Slots, memory: Memory, hardware: HardwareProfile | None
    ) -> Self:
        """Take the link of the hardware profile."""
        assert hardware is not None
        return cls(store, slots, hardware)

    def __init__(self, store: ExpertStore, slots: Slots, profile: HardwareProfile) -> None:
        if profile.link_bytes_per_s is None:
            raise ValueError(
                f"hardware={profile.name}: its link is not known yet; expected a profile with "
                "link_bytes_per_s: try calibrate.scale_model.resolve(profile, MODEL, cache=FOLDER)"
            )
        self.store, self.slots = store, slots
        self._at_once = SMALL if store.io is None else 0
        self._new_timeline = partial(timeline, profile, isinstance(store, HostTierStore))
        self.timeline = self._new_timeline()
        self._start()

    def _start(self) -> None:
        self.timeline.on_chunk = self._sent
        self._expected: dict[int, list[_Copy]] = {}
        self._work: deque[_Copy] = deque()
        self._changed = Wakeup()
        self._error: Exception | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="moex-link", daemon=True)
        self._thread.start()

    def submit(self, plan: Plan) -> None:
        """Cancel dropped prefetches that have not begun, and queue the plan's loads."""
        transfers = plan.transfers
        if not (transfers or plan.dropped or plan.demoted):
            return
        refuse_other_streams(self.slots.records, self.name)
        now, size = perf_counter(), self.store.geometry.size
        for slot in plan.stale:
            for copy in self._expected.pop(slot, ()):
                self.timeline.cancel(now, copy.transfer)
                self._discard(copy)
        handed: list[_Copy] = []
        tiered = plan.sources or plan.demoted
        sent = iter(submit(self.timeline, now, size(), plan) if tiered else ())
        for load in transfers:
            moved = size(load.rows, load.span)
            transfer = next(sent, None) or self.timeline.submit(
                now, moved, load.speculative, load.expert
            )
            copy = _Copy(self.slots.bring(self.store, load), load.slot, transfer)
            before = self._expected.setdefault(load.slot, [])
            if moved <= self._at_once and all(earlier.arrived for earlier in before):
                self._load(copy)
            else:
                handed.append(copy)
            before.append(copy)
        if handed:
            self._hand_over(handed)

    def _hand_over(self, copies: list[_Copy]) -> None:
        """Queue the copies of one plan for the thread."""
        with self._changed.lock:
            # Demanded loads are copied before queued prefetches, except for prefetches into the
            # same slot: copies into one slot keep their order.
            if copies[0].transfer.speculative:
                self._work.extend(copies)
            else:
                first = [e for c in copies for e in self._expected[c.slot] if e not in copies]
                first = [copy for copy in first if copy in self._work]
                for copy in first:
                    self._work.remove(copy)
                self._work.extendleft(reversed(first + copies))
            self._changed.notify_all()

    def _discard(self, copy: _Copy) -> None:
        """Drop a copy that is not needed; wait for one in flight, because its slot is reused."""
        if copy.arrived:
            return
        with self._changed.lock:
            if copy in self._work:
                self._work.remove(copy)
                return
        started = perf_counter()
        self._finish(copy)
        self.stalled(copy.transfer.label, started, perf_counter() - started)

    def _finish(self, copy: _Copy) -> None:
        """Wait for the real bytes of a copy.

        Raises:
            RuntimeError: the copying thread died before it copied them.
        """
        while not copy.arrived:
            with self._changed.lock:
                if copy.arrived:
                    return
                change = self._changed.waiter()
            if not change.acquire(timeout=LOOK_S) and not self._thread.is_alive():
                raise RuntimeError(
                    f"the link's copying thread died before it read {copy.transfer.label}"
                )

    def _sent(self, transfer: Transfer, start: float, end: float, chunk: int) -> None:
        if self.log is None:
            return
        self.log.append(("move", transfer.label, start, end, chunk, "wire"))
        if not transfer.remaining:
            prefetch = transfer.speculative
            self.log.append(("load", transfer.label, transfer.submitted, end, prefetch))

    def wait(self, slot: int) -> bool:
        """Wait until the modelled transfer has ended and the real bytes have arrived.

        Waiting for either is stall.
        """
        copies = self._expected.pop(slot, None)
        if copies is None:
            return False
        started = perf_counter()
        arrival = max(self.timeline.arrival(started, copy.transfer) for copy in copies)
        wait_until(arrival)
        late = arrival > started or not all(copy.arrived for copy in copies)
        for copy in copies:
            self._finish(copy)
        if self._error is not None:
            raise RuntimeError(f"the link's copying thread failed: {self._error}") from self._error
        if late:
            self.stalled(copies[-1].transfer.label, started, perf_counter() - started)
        return late

    def stats(self) -> LinkStats:
        """Bytes and seconds of the modelled link, and real seconds of waiting for it."""
        self.timeline.advance(perf_counter())
        return LinkStats(self.timeline.bytes_moved, self.timeline.busy_s, self.stall_s)

    def restart(self) -> None:
        """Wait for a copy in flight, and start again with an idle link and a new thread."""
        self._stop()
        before, self.timeline = self.timeline, self._new_timeline()
        self.timeline.bytes_moved, self.timeline.busy_s = before.bytes_moved, before.busy_s
        self._start()

    def close(self) -> None:
        """Stop the copying thread."""
        self._stop()
        self._expected.clear()  # a late `wait` must not wait for loads that will never arrive
        self.timeline.on_chunk = None  # a reference cycle, which would keep store and slots alive

    def _stop(self) -> None:
        self._stopping = True
        with self._changed.lock:
            self._work.clear()
            self._changed.notify_all()
        join([self._thread], self.name)

    def _run(self) -> None:
        while not self._stopping:
            change = None
            with self._changed.lock:
                if self._stopping:
                    return
                if self._work:
                    copy = self._work.popleft()
                else:
                    change = self._changed.waiter()
            if change is not None:
                change.acquire()
                continue
            self._load(copy)
            with self._changed.lock:
                self._changed.notify_all()

    def _load(self, copy: _Copy) -> None:
        try:
            copy.load()
        except Exception as error:  # raised by the next wait: a thread cannot
            self._error = error
        copy.arrived = True
