"""Files are whole or as they were, and processes that write to one folder take turns."""

from __future__ import annotations

import resource
import signal
import threading
import time

import pytest

from moex.cli.errors import one_line
from moex.runs import atomic


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_of_it(tmp_path):
    path = tmp_path / "series.jsonl"
    path.write_text("what was there before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            atomic.write_lines(path, ({"line": number} for number in range(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert one_line(caught.value).startswith(f"{path}: file too large; make room")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "what was there before"


def test_two_at_the_same_run_take_turns(tmp_path):
    order = []

    def second():
        with atomic.exclusive_lock(tmp_path, lambda: order.append("waits")):
            order.append("second")

    with atomic.exclusive_lock(tmp_path, lambda: order.append("never")):
        other = threading.Thread(target=second)
        other.start()
        while "waits" not in order:
            time.sleep(0.001)
        order.append("first")
    other.join()
    assert order == ["waits", "first", "second"]
