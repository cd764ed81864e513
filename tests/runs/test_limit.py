"""memory.limit: refused in one line where it cannot be set; a run is never unlimited silently."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from moex.runs import limit


def fake(folder, monkeypatch, script):
    """A systemd-run that is first on the path."""
    path = folder / "systemd-run"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_no_limit_changes_nothing():
    assert limit.enter(None) is None


@pytest.mark.parametrize(
    ("given", "sweep", "said"),
    [
        ("100MB", False, r"memory.limit=100MB \(100000000 bytes\): expected at least 1073741824"),
        ("many", False, r"memory.limit=many: expected bytes"),
        ("8GiB", True, r"memory.limit=8GiB: cells of a sweep share a process"),
    ],
)
def test_a_limit_that_cannot_hold_is_refused(given, sweep, said):
    with pytest.raises(ValueError, match=said):
        limit.enter(given, sweep)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Failed to connect to bus' >&2; exit 1", "Failed to connect to bus"),
        ('shift 4; exec "$@"', "it limits nothing"),
    ],
)
def test_where_no_group_can_be_made_the_run_is_refused(script, said, tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, script)
    monkeypatch.setattr(limit.os, "geteuid", lambda: 0)
    with pytest.raises(ValueError, match=rf"could be made here \({said}\); .* memory.limit=null"):
        limit.enter("8GiB")


def test_a_run_within_the_group_goes_on(tmp_path, monkeypatch):
    line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    group = tmp_path / line.partition("0::/")[2]
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{2**33}\n")
    monkeypatch.setattr(limit, "GROUPS", tmp_path)
    assert limit.granted() == 2**33
    assert limit.enter("8GiB") == 2**33


def test_the_same_command_is_run_in_the_group(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "exit 0")
    found = []

    def replaced(file, words):
        found.append([file, *words])
        raise KeyboardInterrupt

    monkeypatch.setattr(limit.os, "execvp", replaced)
    monkeypatch.setattr(limit, "granted", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        limit.enter("8GiB")
    (words,) = found
    assert f"-pMemoryMax={2**33}" in words
    assert words[-len(sys.orig_argv) :] == [sys.executable, *sys.orig_argv[1:]]
