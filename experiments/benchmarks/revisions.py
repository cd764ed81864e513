"""Is this revision of moex slower than that one? Times two git revisions in interleaved pairs.

    python experiments/benchmarks/revisions.py --before REV [--after REV] [--what resident ...]

Each revision is checked out into a temporary folder and runs in processes of its own, one at a
time, started anew for every pair: where a process happens to put its memory is part of the noise.
Measures until the 95 % half-width is `--half-width`, and prints before's seconds over after's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from analysis.paired import Ratio, paired_ratio
from experiments.harness import ROOT, arguments

DECODE = """
import inspect, time, torch, moex
from moex.cache.lru import LRU
from moex.prefetch.gate import Gate
torch.set_num_threads(1)
prompt = torch.arange(16, 48)[None]
free = {"governor": False} if "governor" in inspect.signature(moex.load).parameters else {}
asked = {"slots": {slots}, "prefetch": Gate(), "store": "{store}"}
with moex.load("tiny", cache=LRU(), **asked, **free) as model:
    def took(tokens):
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - start
    took(8)
    print(min(took(65) - took(1) for _ in range({best_of})))
"""

REPLAY = """
import time, moex
from moex.cache.lru import LRU
trace = moex.read_trace("tiny")
def took():
    start = time.perf_counter()
    moex.simulate(trace, LRU(), 4)
    return time.perf_counter() - start
took()
print(min(took() for _ in range({best_of})))
"""

PROGRAMS = {
    "resident": DECODE.replace("{slots}", "8").replace("{store}", "ram"),
    "half": DECODE.replace("{slots}", "4").replace("{store}", "ram"),
    "half_disk": DECODE.replace("{slots}", "4").replace("{store}", "disk"),
    "replay": REPLAY,
}
"""What is timed: programs that print seconds, by the public API alone."""


def seconds(folder: Path, program: str) -> float:
    """Run a program in a process of its own that imports moex from this folder."""
    found = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | found,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{folder.name}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def compare(before: Path, after: Path, program: str, half_width: float, most: int) -> Ratio:
    """Speed of `after` over that of `before`, from at least 7 pairs that take turns to begin."""
    times: dict[Path, list[float]] = {before: [], after: []}
    while True:
        pairs = len(times[before])
        for folder in (before, after) if pairs % 2 else (after, before):
            times[folder].append(seconds(folder, program))
        if pairs + 1 < min(7, most):
            continue
        ratio = paired_ratio(times[before], times[after])
        if (ratio.high - ratio.low) / 2 <= half_width or ratio.pairs >= most:
            return ratio


def main() -> None:
    """Check both revisions out, and print a line for each program."""
    args = arguments(
        __doc__,
        tiny={"what": ["replay"], "most": 2, "best_of": 1},
        before=("HEAD", "a git revision"),
        after=("HEAD", "a git revision"),
        what=(list(PROGRAMS), "", PROGRAMS),
        half_width=0.015,
        most=(60, "pairs at most"),
        best_of=(4, "of a process, the fastest counts"),
    )
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = [temporary / "before", temporary / "after"]
        for folder, revision in zip(folders, (args.before, args.after), strict=True):
            git = ("git", "-C", str(ROOT), "worktree")
            subprocess.run([*git, "add", "--detach", "-q", str(folder), revision], check=True)
            stack.callback(subprocess.run, [*git, "remove", "--force", str(folder)], check=True)
        for what in args.what:
            program = PROGRAMS[what].replace("{best_of}", str(args.best_of))
            ratio = compare(*folders, program, args.half_width, args.most)
            print(f"{what:>10}: {ratio} (speed of {args.after} over {args.before})", flush=True)


if __name__ == "__main__":
    main()
