"""Rows of files: the right ones whatever their number, and nothing is left under way."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from moex.store import linux_aio, row_reader
from moex.store.row_reader import RowReader, _batches

ROWS, START = 900, 8192


@pytest.fixture(params=[1536, 1000], ids=["in sectors", "anywhere"])
def size(request):
    return request.param


@pytest.fixture
def file(tmp_path, size):
    data = np.random.default_rng(0).integers(0, 256, START + ROWS * size + 4096, np.uint8)
    (tmp_path / "rows").write_bytes(data[: len(data) // 4096 * 4096].tobytes())
    opened = os.open(tmp_path / "rows", os.O_RDONLY | os.O_DIRECT)
    yield opened
    os.close(opened)


@pytest.fixture(params=["kernel", "ourselves"])
def reads(request, size, monkeypatch):
    """A reader of small requests, so that a few rows make several batches."""
    for name, small in {"PIECE": 16384, "GAP": 4096, "HALF": 65536, "TOGETHER": 5}.items():
        monkeypatch.setattr(row_reader, name, small)
    if request.param == "ourselves":
        monkeypatch.setattr(linux_aio, "NUMBERS", {})
    made = RowReader(size, direct=True)
    assert (made._aio is None) == (request.param == "ourselves")
    return made


def wanted(file: int, rows: np.ndarray, size: int) -> list[bytes]:
    data = Path(f"/proc/self/fd/{file}").read_bytes()[START:]
    return [data[row * size : (row + 1) * size] for row in rows]


def read(reads: RowReader, file: int, rows: np.ndarray, size: int) -> list[bytes]:
    end = os.fstat(file).st_size
    found, parts = [], []
    for part, some in reads.read(file, START, end, rows):
        parts.append(part)
        found += [row.tobytes() for row in some]
    assert (parts[0].start, parts[-1].stop) == (0, len(rows))
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert not reads._in_flight
    return found


def chosen(draw: random.Random, share: float) -> np.ndarray:
    return np.array(sorted(draw.sample(range(ROWS), max(1, int(share * ROWS)))))


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 1.0])
def test_rows_come_as_they_lie_in_the_file(reads, file, size, share):
    rows = chosen(random.Random(share), share)
    assert read(reads, file, rows, size) == wanted(file, rows, size)


def test_rows_near_each_other_come_with_one_request(monkeypatch):
    monkeypatch.setattr(row_reader, "GAP", 8192)
    (batch,) = _batches(np.array([0, 1, 3, 5, 40, 41, 50]), 4096, 1 << 20)
    assert batch.begins.tolist() == [0, 40 * 4096, 50 * 4096]
    assert batch.bytes.tolist() == [6 * 4096, 2 * 4096, 4096]
    assert batch.rows.tolist() == [4, 2, 1]


def test_what_the_kernel_brings_short_is_read_again(reads, file, size, monkeypatch):
    if reads._aio is not None:
        ended = reads._aio.ended

        def short(wait: bool) -> list[tuple[int, int]]:
            found = ended(wait)
            for tag, _ in found:
                at = reads._in_flight[tag].address - reads._memory.ctypes.data
                reads._memory[at + 512 : at + reads._in_flight[tag].size] = 0
            return [(tag, 512) for tag, _ in found]

        monkeypatch.setattr(reads._aio, "ended", short)
    rows = chosen(random.Random(1), 0.01)
    assert read(reads, file, rows, size) == wanted(file, rows, size)


def test_who_stops_looking_leaves_nothing_under_way(reads, file, size):
    end, rows = os.fstat(file).st_size, chosen(random.Random(2), 0.5)
    looking = reads.read(file, START, end, rows)
    next(looking)
    looking.close()
    assert not reads._in_flight
    assert read(reads, file, rows, size) == wanted(file, rows, size)


def test_a_file_that_is_too_short_says_so(reads, file, size):
    end = os.fstat(file).st_size + 40960
    with pytest.raises(OSError, match="too short"):
        list(reads.read(file, START, end, np.array([0, ROWS + 12])))
    assert not reads._in_flight
