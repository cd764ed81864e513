"""Linux asynchronous I/O: reads that run in the kernel, straight into our memory.

Python has no binding for `io_submit` and its relatives (not POSIX aio, `man 7 aio`), so they are
called through the C library. Only direct reads are asynchronous.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import struct
import sys
import weakref
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""System call numbers of `io_setup`, `io_destroy`, `io_submit`, `io_getevents`, by machine."""

BLOCK = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb`: data, key, flags, opcode (0 reads), priority, file, address, bytes, offset, ..."""

EVENT = struct.Struct("<QQqq")
"""`struct io_event`: data, block, result (bytes, or minus an error number), second result."""

RING_MAGIC = 0xA10A10A1


class Request(NamedTuple):
    """One read; `tag` identifies it in the results. Address, size and offset are in bytes."""

    tag: int
    file: int
    address: int
    size: int
    offset: int


class AsyncReads:
    """A queue of reads that run while the process computes.

    Args:
        depth: maximum number of reads in flight.
        memory: the target memory; kept alive as long as the kernel may write to it.

    Raises:
        OSError: not available (another operating system, or a container that forbids it).
    """

    def __init__(self, depth: int, memory: object) -> None:
        numbers = NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, destroy, submit, events = numbers
        self.depth, context = depth, ctypes.c_ulong(0)
        system_call("io_setup", setup, 2)(depth, ctypes.addressof(context))
        self._context = context.value
        # The kernel waits for the reads in flight before it destroys a context.
        release = system_call("io_destroy", destroy, 1)
        self._release = weakref.finalize(self, _quietly, release, self._context, memory)
        self._submit = system_call("io_submit", submit, 3)
        self._get = system_call("io_getevents", events, 5)
        self._blocks = ctypes.create_string_buffer(BLOCK.size * depth)
        first = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_void_p * depth)(*range(first, first + len(self._blocks), 64))
        self._events = ctypes.create_string_buffer(EVENT.size * depth)
        ring = (ctypes.c_uint * 5).from_address(self._context)  # id, size, head, tail, magic
        self._ring = ring if ring[4] == RING_MAGIC else None

    def begin(self, requests: Sequence[Request]) -> int:
        """Submit reads, at most `depth`; returns how many were accepted, from the first one on.

        Raises:
            OSError: the first read is refused.
        """
        for number, (tag, file, address, size, offset) in enumerate(requests):
            BLOCK.pack_into(
                self._blocks, 64 * number, tag, 0, 0, 0, 0, file, address, size, offset, 0, 0, 0
            )
        return self._submit(self._context, len(requests), ctypes.addressof(self._pointers))

    def close(self) -> None:
        """Wait for the reads in flight, and destroy the queue."""
        self._ring = None  # its memory is unmapped with the context
        self._release()

    def any_ended(self) -> bool:
        """Whether `ended` has results; needs no system call."""
        return self._ring is None or self._ring[2] != self._ring[3]

    def ended(self, wait: bool) -> list[tuple[int, int]]:
        """Tags and results (bytes, or minus an error number) of reads that have ended.

        Args:
            wait: block until one has ended; a signal may return an empty list.
        """
        until = 0 if wait else ctypes.addressof(_NO_TIME)
        try:
            count = self._get(
                self._context, int(wait), self.depth, ctypes.addressof(self._events), until
            )
        except InterruptedError:
            return []  # Python runs the signal handler before it continues
        events = self._events.raw[: EVENT.size * count]
        return [(tag, result) for tag, _, result, _ in EVENT.iter_unpack(events)]


@cache
def async_reads_work() -> bool:
    """Whether Linux aio works here; containers may forbid it."""
    try:
        AsyncReads(1, None).close()
    except OSError as error:
        log.warning(
            "moex: Linux asynchronous I/O is not available (%s): using reader threads",
            error.strerror,
        )
        return False
    return True


_NO_TIME = (ctypes.c_long * 2)(0, 0)
"""A `struct timespec` of zero: poll without waiting."""


def system_call(name: str, number: int, words: int) -> Callable[..., int]:
    """Return a system call that takes `words` arguments of a machine word each."""
    call = _library()["syscall"]  # indexing creates a new function object with its own types
    call.restype, call.argtypes = ctypes.c_long, [ctypes.c_long] + [ctypes.c_ulong] * words

    def checked(*given: int) -> int:
        result: int = call(number, *given)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
        return result

    return checked


@cache
def _library() -> ctypes.CDLL:
    """The C library; cached, because each `CDLL` creates classes that only the GC frees."""
    return ctypes.CDLL(None, use_errno=True)


def _quietly(release: Callable[..., int], context: int, _: object) -> None:
    with suppress(OSError):  # a forked child does not own the context
        release(context)
