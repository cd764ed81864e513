"""Reads that the kernel does by itself, straight into memory of ours: Linux asynchronous I/O.

The system calls are `io_submit`'s and its kin's (`man 7 aio` is something else), called through the
C library, because Python has no binding of them. Only direct reads are asynchronous.
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
"""Of `io_setup`, `io_destroy`, `io_submit` and `io_getevents`, by machine."""

BLOCK = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb`: data, key, flags, opcode (0 reads), priority, file, address, bytes, offset, ..."""

EVENT = struct.Struct("<QQqq")
"""`struct io_event`: data, block, result (bytes, or minus an error number), second result."""

RING_MAGIC = 0xA10A10A1


class Request(NamedTuple):
    """A read: `tag` is what its end will be told by."""

    tag: int
    file: int
    address: int
    size: int
    offset: int


class AsyncReads:
    """A queue of reads that the kernel works on while we compute.

    Args:
        depth: reads under way at once, at most.
        memory: what is read into; it is kept alive as long as the kernel may write there.

    Raises:
        OSError: there is no such thing here (another system, a container that forbids it).
    """

    def __init__(self, depth: int, memory: object) -> None:
        numbers = NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, destroy, submit, events = numbers
        self.depth, context = depth, ctypes.c_ulong(0)
        system_call("io_setup", setup, 2)(depth, ctypes.addressof(context))
        self._context = context.value
        # The kernel waits for the reads under way before it gives a context up.
        give_up = system_call("io_destroy", destroy, 1)
        self._give_up = weakref.finalize(self, _quietly, give_up, self._context, memory)
        self._submit = system_call("io_submit", submit, 3)
        self._get = system_call("io_getevents", events, 5)
        self._blocks = ctypes.create_string_buffer(BLOCK.size * depth)
        first = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_void_p * depth)(*range(first, first + len(self._blocks), 64))
        self._events = ctypes.create_string_buffer(EVENT.size * depth)
        ring = (ctypes.c_uint * 5).from_address(self._context)  # id, size, head, tail, magic
        self._ring = ring if ring[4] == RING_MAGIC else None

    def begin(self, requests: Sequence[Request]) -> int:
        """Hand reads over, `depth` at most; how many the kernel took, from the first one on.

        Raises:
            OSError: it refuses the first of them.
        """
        for number, (tag, file, address, size, offset) in enumerate(requests):
            BLOCK.pack_into(
                self._blocks, 64 * number, tag, 0, 0, 0, 0, file, address, size, offset, 0, 0, 0
            )
        return self._submit(self._context, len(requests), ctypes.addressof(self._pointers))

    def close(self) -> None:
        """Wait for the reads under way, and give the queue up."""
        self._ring = None  # that memory goes with it
        self._give_up()

    def any_ended(self) -> bool:
        """Whether `ended` has something to tell; costs no system call."""
        return self._ring is None or self._ring[2] != self._ring[3]

    def ended(self, wait: bool) -> list[tuple[int, int]]:
        """Tags and results (bytes, or minus an error number) of reads that have ended.

        Args:
            wait: until one has, or a signal has come: then there may be none.
        """
        until = 0 if wait else ctypes.addressof(_NO_TIME)
        try:
            count = self._get(
                self._context, int(wait), self.depth, ctypes.addressof(self._events), until
            )
        except InterruptedError:
            return []  # Python calls the signal's handler before it goes on
        events = self._events.raw[: EVENT.size * count]
        return [(tag, result) for tag, _, result, _ in EVENT.iter_unpack(events)]


@cache
def async_reads_work() -> bool:
    """Whether the kernel takes reads from us; containers may forbid it."""
    try:
        AsyncReads(1, None).close()
    except OSError as error:
        log.warning("moex: no asynchronous reads here (%s): by reader threads", error.strerror)
        return False
    return True


_NO_TIME = (ctypes.c_long * 2)(0, 0)
"""A `struct timespec`: how long to wait for an event that nobody waits for."""


def system_call(name: str, number: int, words: int) -> Callable[..., int]:
    """A system call with so many arguments, each as long as a machine word."""
    call = _library()["syscall"]  # not an attribute: a function of its own, with its own types
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
    """Made once: every one makes classes, which only the garbage collector takes away."""
    return ctypes.CDLL(None, use_errno=True)


def _quietly(give_up: Callable[..., int], context: int, _: object) -> None:
    with suppress(OSError):  # a forked child has no such context
        give_up(context)
