"""Kill a multirun at random moments, resume it, and look at the rows; prints one JSON line.

    python experiments/benchmarks/interrupted_sweep/kill.py --kills 20

Works in a temporary folder and takes it away again. A moment is drawn as so many new rows and a
part of a row's time more, so that it does not depend on how fast the machine is; every fourth one
falls into the start of the program.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep

from experiments.harness import ROOT, arguments, emit

GRID = ["mode=simulate", "bottleneck=false", "prefetch=none", "cache=lru,lfu,fifo,sieve,arc,mru"]
SIZES = {60: ["memory.slots=2,3,4,5,6", "seed=0,1"], 6: ["memory.slots=3"]}
OWN = ("started", "git", "dirty", "versions", "machine")


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start the multirun."""
    command = [sys.executable, "run.py", "-m", f"hydra.sweep.dir={folder}", *words]
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, text=True)


def rows(folder: Path) -> dict[str, tuple[int, int]]:
    """Every whole row's folder, and which file it is; a torn one fails here."""
    found = {}
    for path in folder.glob("*/result.json"):
        assert json.loads(path.read_text())["run_id"] == path.parent.name
        found[path.parent.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def said(folder: Path) -> int:
    """How many cells the last start reported as finished before."""
    match = re.search(r"(\d+) of \d+ cells were fin", folder.with_suffix(".log").read_text())
    return int(match[1]) if match else -1


def live_once(folder: Path, words: list[str], draw: random.Random, a_row_s: float) -> bool:
    """Start, and kill at a random moment; whether it was killed before it ended by itself."""
    before, child = len(rows(folder)), start(folder, words)
    wanted = before + (0 if draw.random() < 0.25 else draw.randint(1, 4))
    while child.poll() is None and len(rows(folder)) < wanted:
        sleep(0.005)
    sleep(a_row_s * draw.random())
    if child.poll() is not None:
        return False
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return True


def content(folder: Path) -> dict[str, dict[str, object]]:
    """The rows without their time and commit."""
    texts = {path.parent.name: path.read_text() for path in folder.glob("*/result.json")}
    return {
        name: {key: value for key, value in json.loads(text).items() if key not in OWN}
        for name, text in texts.items()
    }


def main() -> None:
    """Run it."""
    given = arguments(
        __doc__, tiny={"cells": 6, "kills": 2}, cells=(60, "", sorted(SIZES)), kills=20
    )
    words, draw = GRID + SIZES[given.cells], random.Random(0)
    done = {"cells": given.cells, "killed": 0, "rows_when_killed": [], "run_again": 0, "wrong": 0}
    with tempfile.TemporaryDirectory(prefix="interrupted-") as scratch:
        whole, turn = Path(scratch) / "whole", 0
        started = perf_counter()
        start(whole, words).wait()
        a_row_s = (perf_counter() - started) / given.cells
        while done["killed"] < given.kills:
            folder, turn = Path(scratch) / str(turn), turn + 1
            seen: dict[str, tuple[int, int]] = {}
            killed = True
            while killed:
                killed = done["killed"] < given.kills
                if killed:
                    killed = live_once(folder, words, draw, a_row_s)
                else:
                    start(folder, words).wait()
                done["killed"] += killed
                counted, now = said(folder), rows(folder)
                done["wrong"] += counted not in (-1, len(seen))
                done["run_again"] += any(now[name] != seen[name] for name in seen)
                seen = now
                if killed:
                    done["rows_when_killed"].append(len(now))
            done["rows"] = len(seen)
            done["same"] = content(folder) == content(whole)
            done["left_over"] = len(list(folder.glob("*/.*")))
            assert done["same"], folder.with_suffix(".log").read_text()
            assert (len(seen), done["left_over"]) == (given.cells, 0)
    emit(done)


if __name__ == "__main__":
    main()
