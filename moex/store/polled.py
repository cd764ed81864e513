"""Reads that a thread of the kernel begins and ends on a core of its own: Linux io_uring, polled.

Requests and their ends go through memory that we share with that thread (`man 2 io_uring_setup`,
IORING_SETUP_SQPOLL): to hand a read over or to see its end is no system call.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import struct
import sys
import threading
import weakref
from contextlib import suppress
from ctypes import addressof, c_uint
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from moex.store.kernel import KernelReads, system_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moex.store.kernel import Request

ENTRY = struct.Struct("<BBHiQQIIQ24x")
"""`struct io_uring_sqe`: operation, flags, priority, file, offset, address, bytes, flags, tag."""

END = struct.Struct("<QiI")
"""`struct io_uring_cqe`: tag, result (bytes, or minus an error number), flags."""

READ, POLLED, ON_CORE, ANY_FILE, ASLEEP, WAIT, WAKE = 22, 2, 4, 128, 1, 1, 2
"""The kernel's numbers: an operation, flags of setup (it answers the last), the ring, a call."""

IDLE_MS = 20
"""The kernel's thread goes to sleep after so long without a request."""

LOOK_S = 2e-3
"""A wait looks so long for an end before it sleeps."""

STARVED = 4
"""Waits in which the kernel's thread neither took all requests nor ended any while we looked, more
than one in sixteen: then others want its core."""

PROBES = 16
"""Reads that show which core a disk interrupts."""


class _Ring:
    """The shared memory: counters that only rise (modulo 2**32), requests and ends."""

    def __init__(self, depth: int, core: int | None) -> None:
        # Either side must see the other's stores in their order: not every machine keeps it.
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        flags = POLLED if core is None else POLLED | ON_CORE
        given = (c_uint * 30)(0, 0, flags, core or 0, IDLE_MS)
        self.file = system_call("io_uring_setup", 425, 2)(depth, addressof(given))
        if not given[5] & ANY_FILE:  # before 5.11 its thread reads from registered files only
            os.close(self.file)
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self.enter = system_call("io_uring_enter", 426, 6)
        self.requests, self.ends = given[0], given[1]
        asked, ended = given[10:20], given[20:30]  # where things lie, in bytes
        size = max(asked[6] + 4 * self.requests, ended[5] + END.size * self.ends)
        self.memory = mmap.mmap(self.file, size)
        self.entries = mmap.mmap(self.file, 64 * self.requests, offset=0x10000000)
        self.words = memoryview(self.memory).cast("I")
        self.taken, self.begun, self.flags = asked[0] // 4, asked[1] // 4, asked[4] // 4
        self.seen, self.ended, self.first_end = ended[0] // 4, ended[1] // 4, ended[5]
        for number in range(self.requests):  # a request's number is that of its entry
            self.words[asked[6] // 4 + number] = number
        self.come_back = _stay_away(core)

    def wait(self, wanted: int) -> None:
        """Sleep until so many ends are there to be seen."""
        self.enter(self.file, 0, wanted, WAIT | WAKE, 0, 0)

    def free(self, owner: int, _: object) -> None:
        """Wait for the reads under way, unless they are our parent's, and give all of it up."""
        words = self.words
        if os.getpid() == owner:
            self.come_back()
        while os.getpid() == owner and words[self.ended] != words[self.begun]:
            with suppress(InterruptedError):
                self.wait((words[self.begun] - words[self.seen]) % 2**32)
        words.release()
        self.memory.close()
        self.entries.close()
        os.close(self.file)


class PolledReads:
    """A queue of reads that a thread of the kernel works on; to be used as `KernelReads` is.

    Args:
        depth: reads under way at once, at most.
        memory: what is read into; it is kept alive as long as the kernel may write there.
        core: where the kernel's thread runs, None for anywhere. The thread that makes this stays
            away from there until it is closed: where both take turns, both wait for milliseconds.

    Raises:
        OSError: there is no such thing here (another system, a container that forbids it).
    """

    io = "uring"

    def __init__(self, depth: int, memory: object, core: int | None = None) -> None:
        self.depth, self._owner = depth, os.getpid()
        self._ring, self._vain, self._awake = _Ring(depth, core), 0.0, False
        self._give_up = weakref.finalize(self, self._ring.free, self._owner, memory)

    def begin(self, requests: Sequence[Request]) -> int:
        """Hand reads over, `depth` at most; how many the kernel took: all of them.

        Raises:
            OSError: the queue is not ours: we are a forked child.
        """
        ring, words = self._ring, self._ours()
        number = words[ring.begun]
        for tag, file, address, size, offset in requests:
            at = 64 * (number % ring.requests)
            ENTRY.pack_into(ring.entries, at, READ, 0, 0, file, offset, address, size, 0, tag)
            number += 1
        words[ring.begun] = number % 2**32
        if words[ring.flags] & ASLEEP:  # one that falls asleep just now is woken by who waits
            self._awake = False
            ring.enter(ring.file, 0, 0, WAKE, 0, 0)
        return len(requests)

    def close(self) -> None:
        """Wait for the reads under way, and give the queue up."""
        self._give_up()

    @property
    def starved(self) -> bool:
        """Whether the kernel's thread gets no core: others are quicker then."""
        return self._vain >= STARVED

    def any_ended(self) -> bool:
        """Whether `ended` has something to tell; costs no system call."""
        ring = self._ring
        return ring.words[ring.ended] != ring.words[ring.seen]

    def ended(self, wait: bool) -> list[tuple[int, int]]:
        """Tags and results (bytes, or minus an error number) of reads that have ended.

        Args:
            wait: until one has, or a signal has come: then there may be none.

        Raises:
            OSError: the queue is not ours: we are a forked child.
        """
        ring, words = self._ring, self._ours()
        seen = words[ring.seen]
        if wait:
            until = perf_counter() + LOOK_S
            while words[ring.ended] == seen and perf_counter() < until:
                pass
            if self._awake:  # to begin and to wake up takes it a millisecond, wherever it runs
                in_vain = words[ring.ended] == seen and words[ring.taken] != words[ring.begun]
                self._vain = self._vain + 1 if in_vain else max(0.0, self._vain - 1 / 16)
            if words[ring.ended] == seen:
                try:
                    ring.wait(1)
                except InterruptedError:
                    return []  # Python calls the signal's handler before it goes on
        found = []
        while seen != words[ring.ended]:
            at = ring.first_end + END.size * (seen % ring.ends)
            tag, result, _ = END.unpack_from(ring.memory, at)
            found.append((tag, result))
            seen = (seen + 1) % 2**32
        self._awake = self._awake or bool(found)
        words[ring.seen] = seen
        return found

    def _ours(self) -> memoryview:
        if os.getpid() != self._owner:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._ring.words


def fastest_reads(depth: int, memory: object, file: int) -> KernelReads | PolledReads:
    """Reads by a thread of the kernel where the threads that compute leave it a core.

    Args:
        depth: reads under way at once, at most.
        memory: what is read into.
        file: one of those that are read, opened for direct reads.

    Raises:
        OSError: the kernel has no such reads for us.
    """
    if torch.get_num_threads() < len(os.sched_getaffinity(0)):
        with suppress(OSError):
            return PolledReads(depth, memory, interrupted_core(file))
    return KernelReads(depth, memory)


def _stay_away(core: int | None) -> Callable[[], None]:
    """Keep the calling thread off a core, if it may run elsewhere; what lets it back there."""
    thread, everywhere = threading.get_native_id(), os.sched_getaffinity(0)
    elsewhere = everywhere - {core}
    if elsewhere:
        os.sched_setaffinity(thread, elsewhere)

    def come_back() -> None:
        with suppress(OSError):  # the thread may be over
            if os.sched_getaffinity(thread) == elsewhere:
                os.sched_setaffinity(thread, everywhere)

    return come_back


def interrupted_core(file: int) -> int | None:
    """The core that the disk tells of its reads, if it is always the same and ours.

    Args:
        file: opened for direct reads.
    """
    page, before = mmap.mmap(-1, mmap.PAGESIZE), _interrupts()
    for _ in range(PROBES):
        os.preadv(file, [page], 0)
    rise = {where: count - before.get(where, 0) for where, count in _interrupts().items()}
    line = max(rise, key=rise.__getitem__, default=None)
    if line is None or rise[line] < PROBES or line[1] not in os.sched_getaffinity(0):
        return None
    return line[1]


def _interrupts() -> dict[tuple[str, int], int]:
    """How often devices have interrupted every core, by line and core."""
    head, *lines = Path("/proc/interrupts").read_text().splitlines()
    cores = [int(name.removeprefix("CPU")) for name in head.split()]
    rows = [line.split() for line in lines]
    return {
        (row[0], core): int(count)
        for row in rows
        if row[0][:-1].isdigit()
        for core, count in zip(cores, row[1:], strict=False)
    }
