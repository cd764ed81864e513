"""What a sweep shows: rows where stdout is read; on a terminal a line of progress and a table."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from analysis import table
from moex.cli.errors import CONF

if TYPE_CHECKING:
    from pathlib import Path

ROOT = CONF.parent
WORDS = ("-m", "mode=simulate", "bottleneck=false", "smoke=true", "prefetch=none", "cache=lru,lfu")


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "run.py", *WORDS, f"hydra.sweep.dir={folder}", *words]


def on_a_terminal(words: list[str]) -> str:
    """All that a terminal shows of a command."""
    master, slave = pty.openpty()
    process = subprocess.Popen(words, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.fixture(scope="module")
def piped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    words = command(folder, "memory.slots=2,4")
    return folder, subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)


def test_a_piped_sweep_prints_its_rows_and_a_table_of_what_was_swept(piped):
    _, done = piped
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["policy"], row["slots"]) for row in rows] == [
        ("lru", 2), ("lru", 4), ("lfu", 2), ("lfu", 4),
    ]  # fmt: skip
    lines = [line.split("|")[1:-1] for line in done.stderr.splitlines() if line.startswith("|")]
    head, _, *cells = [[cell.strip() for cell in line] for line in lines]
    assert head == ["cache", "memory.slots", "hit rate", "MB/token"]
    assert [tuple(line[:2]) for line in cells] == [
        ("lru", "2"), ("lru", "4"), ("lfu", "2"), ("lfu", "4"),
    ]  # fmt: skip
    assert [line[2] for line in cells] == [f"{100 * row['hit_rate']:.1f} %" for row in rows]


def test_the_command_under_the_table_gives_the_same_cells(piped, capsys):
    _, done = piped
    (line,) = re.findall(r"python -m analysis\.table (.*) --format", done.stderr)
    table.main(shlex.split(line))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| policy | slots | ")
    assert len(lines) == 2 + 4


@pytest.mark.slow
def test_on_a_terminal_there_is_progress_and_a_table_and_no_json(piped):
    folder, _ = piped
    shown = on_a_terminal(command(folder, "memory.slots=2,4"))
    assert '{"' not in shown
    assert "cell 4 of 4: " in shown
    assert shown.count("| lru ") == shown.count("| lfu ") == 2
    lines = [line for line in shown.replace("\r\n", "\n").split("\n") if line]
    assert not [line for line in lines if re.search(r"cell \d of .*", line.rpartition("\x1b[K")[2])]
