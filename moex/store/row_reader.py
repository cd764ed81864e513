"""Rows of a file, many at once: neurons of an expert, wherever in its record they lie."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moex.store.layout import PAGE
from moex.store.linux_aio import AsyncReads, Request
from moex.store.slots import paged

if TYPE_CHECKING:
    from collections.abc import Iterator

GAP = 16 << 10
"""Bytes between two rows that are read along with them: another request costs about as much."""

PIECE = 1 << 20
"""Bytes from which on a request ends with the running row."""

TOGETHER, HALF = 64, 4 << 20
"""Requests that are waited for together, and their bytes, at most; as much again is under way."""


class RowReader:
    """Reads rows into memory that is used again and again; every thread has one of its own.

    While rows are taken out of one half of it the kernel reads the next into the other. Where it
    has no asynchronous reads for us, requests are made one after the other.

    Args:
        size: bytes of a row.
        direct: whether files are opened around the page cache: others are not asynchronous.
    """

    def __init__(self, size: int, direct: bool) -> None:
        self._size, self._half = size, max(HALF, -(-(PIECE + size) // PAGE + 1) * PAGE)
        self._memory = paged(2 * self._half).numpy()
        self._kernel: AsyncReads | None = None
        self._flying: dict[int, Request] = {}
        self._short: list[Request] = []
        if direct:
            with suppress(OSError):
                self._kernel = AsyncReads(2 * TOGETHER, self._memory)

    def read(
        self, file: int, start: int, end: int, rows: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows as runs of bytes, which are gone when the next are asked for.

        Args:
            file: where they are.
            start: the byte at which row 0 begins, of a whole page.
            end: the byte at which what may be read ends.
            rows: which [rows], ascending.

        Yields:
            Which of `rows`, and these [them].

        Raises:
            OSError: they cannot be read.
        """
        before: tuple[slice, np.ndarray, list[Request]] | None = None
        try:
            for number, batch in enumerate(_batches(rows, self._size, self._half)):
                sizes = np.minimum(batch.bytes, end - start - batch.begins)
                positions = number % 2 * self._half + np.cumsum(sizes) - sizes
                running = self._begin(file, number % 2, positions, start + batch.begins, sizes)
                at = np.repeat(positions - batch.begins, batch.rows) + rows[batch.part] * self._size
                if before is not None:
                    yield self._landed(*before)
                before = batch.part, at, running
            if before is not None:
                yield self._landed(*before)
        except BaseException:
            # What the kernel told us of reads that ended may be lost: it waits for all of them.
            if self._kernel is not None:
                self._kernel.close()
                self._kernel = None
            self._flying.clear()
            self._short.clear()
            raise

    def _begin(
        self, file: int, half: int, positions: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ) -> list[Request]:
        """Hand requests to the kernel, and make those ourselves that it does not take."""
        addresses = self._memory.ctypes.data + positions
        columns = addresses.tolist(), sizes.tolist(), offsets.tolist()
        first = half * TOGETHER
        requests = [
            Request(first + n, file, *each) for n, each in enumerate(zip(*columns, strict=True))
        ]
        taken = 0
        if self._kernel is not None:
            with suppress(OSError):
                taken = self._kernel.begin(requests)
        self._flying.update((request.tag, request) for request in requests[:taken])
        for request in requests[taken:]:
            self._read(request)
        return requests

    def _landed(
        self, part: slice, at: np.ndarray, requests: list[Request]
    ) -> tuple[slice, np.ndarray]:
        """Wait for requests, and find the rows where they have come to in our memory."""
        while any(request.tag in self._flying for request in requests):
            self._collect()
        while self._short:
            self._read(self._short.pop())
        first, last, size = int(at[0]), int(at[-1]) + self._size, self._size
        if last - first == len(at) * size:
            return part, self._memory[first:last].view(f"V{size}")
        # A row may begin anywhere: as many overlapping runs as there are bytes to begin at.
        anywhere = len(self._memory) - size + 1
        return part, np.ndarray(anywhere, f"V{size}", self._memory, strides=1)[at]

    def _collect(self) -> None:
        """Wait until something has come."""
        assert self._kernel is not None
        for tag, result in self._kernel.ended(wait=True):
            request = self._flying.pop(tag)
            if result != request.size:
                self._short.append(request)

    def _read(self, request: Request) -> None:
        """Make a request ourselves.

        Raises:
            OSError: it cannot be read.
        """
        at, offset = request.address - self._memory.ctypes.data, request.offset
        rest = self._memory[at : at + request.size].data
        while rest:
            count = os.preadv(request.file, [rest], offset)
            if not count or count % PAGE:
                raise OSError(errno.EIO, "the file is too short")
            rest, offset = rest[count:], offset + count


class _Batch(NamedTuple):
    """Requests that are waited for together."""

    part: slice
    """Which of the rows they bring."""

    rows: np.ndarray
    """How many rows each of them brings."""

    begins: np.ndarray
    """The byte at which each begins, of a whole page, from row 0 on."""

    bytes: np.ndarray
    """How long each is, in whole pages."""


def _batches(rows: np.ndarray, size: int, room: int) -> Iterator[_Batch]:
    """Share rows of `size` bytes out over requests, those near each other with one.

    Args:
        rows: which, ascending.
        size: bytes of each.
        room: for the requests of a batch.
    """
    begins, ends = rows * size // PAGE * PAGE, -(-(rows + 1) * size // PAGE) * PAGE
    apart = begins[1:] > ends[:-1] + GAP
    full = begins[1:] // PIECE > begins[:-1] // PIECE
    first = np.flatnonzero(np.r_[True, apart | full])
    counts = np.diff(first, append=len(rows))
    begins, lengths = begins[first], ends[first + counts - 1] - begins[first]
    so_far, at = np.cumsum(lengths), 0
    while at < len(first):
        before = so_far[at] - lengths[at]
        stop = min(int(np.searchsorted(so_far, before + room, "right")), at + TOGETHER)
        some = slice(at, stop)
        part = slice(int(first[at]), int(first[stop - 1] + counts[stop - 1]))
        yield _Batch(part, counts[some], begins[some], lengths[some])
        at = stop
