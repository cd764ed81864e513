"""Reads scattered rows of a file in batches: selected neurons of an expert's record."""

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
"""Bytes between two rows up to which one request reads both: a second one costs as much."""

PIECE = 1 << 20
"""Bytes after which a request ends with its current row."""

TOGETHER, HALF = 64, 4 << 20
"""Maximum requests and bytes of a batch; one more batch is in flight at the same time."""


class RowReader:
    """Reads rows into a reused double buffer; each thread needs its own reader.

    While rows of one half are used, Linux aio fills the other. Where aio is not available,
    requests are read one after the other.

    Args:
        size: bytes of a row.
        direct: whether files are opened for direct reads; only these are asynchronous.
    """

    def __init__(self, size: int, direct: bool) -> None:
        self._size, self._half = size, max(HALF, -(-(PIECE + size) // PAGE + 1) * PAGE)
        self._memory = paged(2 * self._half).numpy()
        self._aio: AsyncReads | None = None
        self._in_flight: dict[int, Request] = {}
        self._short: list[Request] = []
        if direct:
            with suppress(OSError):
                self._aio = AsyncReads(2 * TOGETHER, self._memory)

    def read(
        self, file: int, start: int, end: int, rows: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows as runs of bytes, valid until the next batch is requested.

        Args:
            file: descriptor of the open file.
            start: offset of row 0 in bytes, a multiple of the page size.
            end: offset in bytes at which the record ends.
            rows: indices of the rows [rows], ascending.

        Yields:
            A slice of `rows`, and its rows [slice].

        Raises:
            OSError: a read failed.
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
            # Results of finished reads may be lost: wait for all reads, and drop the queue.
            if self._aio is not None:
                self._aio.close()
                self._aio = None
            self._in_flight.clear()
            self._short.clear()
            raise

    def _begin(
        self, file: int, half: int, positions: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ) -> list[Request]:
        """Submit requests to Linux aio, and read those that it refuses synchronously."""
        addresses = self._memory.ctypes.data + positions
        columns = addresses.tolist(), sizes.tolist(), offsets.tolist()
        first = half * TOGETHER
        requests = [
            Request(first + n, file, *each) for n, each in enumerate(zip(*columns, strict=True))
        ]
        taken = 0
        if self._aio is not None:
            with suppress(OSError):
                taken = self._aio.begin(requests)
        self._in_flight.update((request.tag, request) for request in requests[:taken])
        for request in requests[taken:]:
            self._read(request)
        return requests

    def _landed(
        self, part: slice, at: np.ndarray, requests: list[Request]
    ) -> tuple[slice, np.ndarray]:
        """Wait for requests, and return their rows out of the buffer."""
        while any(request.tag in self._in_flight for request in requests):
            self._collect()
        while self._short:
            self._read(self._short.pop())
        first, last, size = int(at[0]), int(at[-1]) + self._size, self._size
        if last - first == len(at) * size:
            return part, self._memory[first:last].view(f"V{size}")
        # A row may begin at any byte: index a view with one overlapping row per byte.
        anywhere = len(self._memory) - size + 1
        return part, np.ndarray(anywhere, f"V{size}", self._memory, strides=1)[at]

    def _collect(self) -> None:
        """Wait until at least one request has ended."""
        assert self._aio is not None
        for tag, result in self._aio.ended(wait=True):
            request = self._in_flight.pop(tag)
            if result != request.size:
                self._short.append(request)

    def _read(self, request: Request) -> None:
        """Read a request synchronously.

        Raises:
            OSError: the read failed.
        """
        at, offset = request.address - self._memory.ctypes.data, request.offset
        rest = self._memory[at : at + request.size].data
        while rest:
            count = os.preadv(request.file, [rest], offset)
            if not count or count % PAGE:
                raise OSError(errno.EIO, "the file is too short")
            rest, offset = rest[count:], offset + count


class _Batch(NamedTuple):
    """Requests of a batch, which are waited for together."""

    part: slice
    """The slice of the requested rows that they cover."""

    rows: np.ndarray
    """Rows that each request covers."""

    begins: np.ndarray
    """Offset of each request from row 0 in bytes, a multiple of the page size."""

    bytes: np.ndarray
    """Length of each request in bytes, a multiple of the page size."""


def _batches(rows: np.ndarray, size: int, room: int) -> Iterator[_Batch]:
    """Split rows into batches of requests; neighbouring rows share one request.

    Args:
        rows: indices of the rows, ascending.
        size: bytes of a row.
        room: maximum bytes of a batch.
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
