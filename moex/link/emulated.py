"""A link of another machine: real bytes move, but they arrive no sooner than they would there."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING

from moex.hardware.link_model import LinkTimeline
from moex.link.base import Link, LinkStats, join, refuse_other_streams
from moex.link.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.hardware.link_model import Transfer
    from moex.hardware.profile import HardwareProfile
    from moex.store.base import ExpertStore
    from moex.store.slots import Slots
    from moex.types import Plan

SPIN_S = 200e-6
"""Sleeping is precise to about this; the rest of a wait is spent looking at the clock."""

SMALL = 1 << 20
"""Handing a copy to a thread costs the computing one as much as copying about so many bytes."""

LOOK_S = 1.0
"""How often a wait for bytes looks whether the thread that brings them lives."""


def wait_until(moment: float) -> None:
    """Return at a moment of `perf_counter`, exact to its precision."""
    while (rest := moment - perf_counter()) > 0:
        if rest > SPIN_S:
            sleep(rest - SPIN_S)


class _Copy:
    """One load: its place in the modelled queue, and whether its bytes are really there."""

    __slots__ = ("bring", "slot", "there", "transfer")

    def __init__(self, bring: Callable[[], None], slot: int, transfer: Transfer) -> None:
        self.bring, self.slot, self.transfer = bring, slot, transfer
        self.there = False
        """Whether its bytes are."""


class EmulatedLink(Link):
    """Moves bytes with a thread of its own and delays arrival to a profile's link.

    Arrival times come from the same `LinkTimeline` that the simulator uses, driven by the machine's
    clock, so waits are exact to the precision of the clock however busy the copying thread is. What
    is `SMALL` and in memory the computing thread copies itself, in time that counts as computing.

    Args:
        store: where bytes come from.
        slots: where they go.
        profile: gives bandwidth, latency and chunk size.
    """

    name = "emulated"
    emulated = True

    def __init__(self, store: ExpertStore, slots: Slots, profile: HardwareProfile) -> None:
        assert profile.link_bytes_per_s is not None
        self.store, self.slots = store, slots
        self._at_once = SMALL if store.io is None else 0
        self._forgetting = 0.0
        self._new_timeline = partial(
            LinkTimeline, profile.link_bytes_per_s, profile.link_latency_s, profile.chunk_bytes
        )
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
        """Queue the plan's loads, after taking back dropped guesses that have not begun."""
        transfers = plan.transfers
        if not transfers and not plan.dropped:
            return
        refuse_other_streams(self.slots.records, self.name)
        now, size = perf_counter(), self.store.geometry.size
        # What was still to come into a place that another expert takes, nobody wants.
        for slot in [gone.slot for gone in plan.dropped] + [load.slot for load in plan.loads]:
            for copy in self._expected.pop(slot, ()):
                self.timeline.cancel(now, copy.transfer)
                self._forget(copy)
        handed: list[_Copy] = []
        for load in transfers:
            moved = size(load.rows)
            transfer = self.timeline.submit(now, moved, load.speculative, load.expert)
            copy = _Copy(self.slots.bring(self.store, load), load.slot, transfer)
            before = self._expected.setdefault(load.slot, [])
            if moved <= self._at_once and all(earlier.there for earlier in before):
                self._bring(copy)
            else:
                handed.append(copy)
            before.append(copy)
        if handed:
            self._hand_over(handed)

    def _hand_over(self, copies: list[_Copy]) -> None:
        """Give copies of one plan to the thread."""
        with self._changed.lock:
            # Bytes of a demanded load are copied before those of guesses still waiting, except for
            # guesses of the same place: what is loaded there later must come later.
            if copies[0].transfer.speculative:
                self._work.extend(copies)
            else:
                first = [e for c in copies for e in self._expected[c.slot] if e not in copies]
                first = [copy for copy in first if copy in self._work]
                for copy in first:
                    self._work.remove(copy)
                self._work.extendleft(reversed(first + copies))
            self._changed.notify_all()

    def _forget(self, copy: _Copy) -> None:
        """Do not copy what nobody wants; let a copy under way end, for its place is due."""
        if copy.there:
            return
        with self._changed.lock:
            if copy in self._work:
                self._work.remove(copy)
                return
        started = perf_counter()
        self._finish(copy)
        stall = perf_counter() - started
        self._forgetting += stall
        if self.log is not None:
            self.log.append(("stall", copy.transfer.label, started, stall))

    def _finish(self, copy: _Copy) -> None:
        """Wait for the real bytes of a copy, which only a living thread brings."""
        while not copy.there:
            with self._changed.lock:
                if copy.there:
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

    def wait(self, slot: int) -> float:
        """Return when the modelled transfer is through and the real bytes are there.

        Whatever of the two it waits for is stall.
        """
        copies = self._expected.pop(slot, None)
        if copies is None:
            return 0.0
        started = perf_counter()
        arrival = max(self.timeline.arrival(started, copy.transfer) for copy in copies)
        wait_until(arrival)
        late = arrival > started or not all(copy.there for copy in copies)
        for copy in copies:
            self._finish(copy)
        if self._error is not None:
            raise RuntimeError(f"the link's copying thread failed: {self._error}") from self._error
        if not late:
            return 0.0
        stall = perf_counter() - started
        if self.log is not None:
            self.log.append(("stall", copies[-1].transfer.label, started, stall))
        return stall

    def collect_stall(self) -> float:
        """Return how long copies that nobody wants held `submit` up since the last call."""
        seconds, self._forgetting = self._forgetting, 0.0
        return seconds

    def stats(self) -> LinkStats:
        """Bytes and seconds of the modelled link."""
        self.timeline.advance(perf_counter())
        return LinkStats(self.timeline.bytes_moved, self.timeline.busy_s)

    def restart(self) -> None:
        """Let a copy under way end, and begin anew with an idle wire and a new thread."""
        self._stop()
        before, self.timeline = self.timeline, self._new_timeline()
        self.timeline.bytes_moved, self.timeline.busy_s = before.bytes_moved, before.busy_s
        self._start()

    def close(self) -> None:
        """Stop the copying thread."""
        self._stop()
        self._expected.clear()  # the books may be closed after the link: what was to come will not
        self.timeline.on_chunk = None  # a circle, which would keep store and slots for a while

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
            self._bring(copy)
            with self._changed.lock:
                self._changed.notify_all()

    def _bring(self, copy: _Copy) -> None:
        try:
            copy.bring()
        except Exception as error:  # said by the wait, as the thread cannot
            self._error = error
        copy.there = True
