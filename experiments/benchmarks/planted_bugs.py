"""Does the suite catch bugs? Plants twenty, one at a time, and runs the tests that should fail.

    python experiments/benchmarks/planted_bugs.py [--only 3 7]

A bug is one replaced line in a temporary checkout of HEAD. It is caught if a test of its rooms
fails that passes without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from experiments.harness import ROOT, arguments


class Bug(NamedTuple):
    """A line of a file, what it becomes, and the tests that should notice."""

    name: str
    file: str
    line: str
    becomes: str
    tests: str


CACHE, RUN = "tests/cache tests/test_parity.py", "tests/test_exactness.py tests/test_parity.py"
BUGS = (
    Bug(
        "LRU evicts the last used",
        "moex/cache/array_policy.py",
        "return candidates[0]",
        "return candidates[-1]",
        CACHE,
    ),
    Bug(
        "members of a visit tie in top-k order",
        "moex/cache/core.py",
        "ordered = [names[index] for index in sorted(experts)]",
        "ordered = [names[index] for index in experts]",
        CACHE,
    ),
    Bug(
        "a member of the running visit may be a victim",
        "moex/cache/core.py",
        "members = pool.set_aside(ordered)\n        dropped",
        "members = {e: pool.residents[e] for e in ordered if e in pool.residents}\n        dropped",
        CACHE,
    ),
    Bug(
        "prefetches take the slots of demand",
        "moex/cache/core.py",
        "room = self.staging - self.geometry.top_k - len(self._in_flight)",
        "room = self.staging - len(self._in_flight)",
        CACHE,
    ),
    Bug(
        "a prefetch whose visit has passed is kept",
        "moex/cache/core.py",
        "return [self._drop(prefetch) for prefetch in wrong]",
        "return []",
        CACHE,
    ),
    Bug(
        "slots of a finished wave are lost",
        "moex/cache/core.py",
        "self._free.extend(self._released)",
        "pass",
        CACHE,
    ),
    Bug(
        "Belady looks at the running visit",
        "moex/types.py",
        "position = bisect_right(clocks, after)",
        "position = bisect_right(clocks, after - 1)",
        CACHE,
    ),
    Bug(
        "rows of an evicted expert still count as resident",
        "moex/cache/variants/row_cache.py",
        "            self._held.pop(expert, None)\n        # In a global",
        "            pass\n        # In a global",
        "tests/cache tests/sparsity",
    ),
    Bug(
        "prefetches that were used count as wasted",
        "moex/cache/stats.py",
        "counts.prefetch_used += len(prefetched)",
        "counts.prefetch_used += 0",
        "tests/cache tests/test_report.py tests/test_parity.py tests/sim",
    ),
    Bug(
        "experts are summed in the order of arrival",
        "moex/runner/layer_forward.py",
        "out, weight = self._into[self.chosen[0].index(expert[1])]",
        "out, weight = self._into.pop(0)",
        RUN,
    ),
    Bug(
        "an expert that is loading is not waited for",
        "moex/link/disk.py",
        "    def wait(self, slot: int) -> bool:",
        "    def wait(self, slot: int) -> bool:\n        return False\n\n    def old(self, slot):",
        "tests/link " + RUN,
    ),
    Bug(
        "a stale prefetch is still sent",
        "moex/link/queue.py",
        "                self._remove(slot)",
        "                pass",
        "tests/link tests/runner",
    ),
    Bug(
        "an interrupted visit counts as whole",
        "moex/runner/journal.py",
        "self.recorder.cut(clock)",
        "pass",
        "tests/runner -m 'slow or not slow'",
    ),
    Bug(
        "the cache survives an interrupted visit",
        "moex/runner/offloaded.py",
        "            self._forget()\n            self.meter.start()",
        "            self.meter.start()",
        "tests/runner -m 'slow or not slow'",
    ),
    Bug(
        "the simulator forgets the latency of a load",
        "moex/hardware/link_model.py",
        "(0.0 if transfer.started else transfer.latency)",
        "0.0",
        "tests/sim tests/hardware",
    ),
    Bug(
        "demand does not overtake prefetches",
        "moex/hardware/link_model.py",
        "queue = self.demand or self.speculation",
        "queue = self.speculation or self.demand",
        "tests/sim tests/hardware tests/link",
    ),
    Bug(
        "a record's checksum is not compared",
        "moex/store/disk.py",
        "        self.check(expert, out)",
        "        pass",
        "tests/store tests/test_faults.py",
    ),
    Bug(
        "zeros of quantized groups are those of another group",
        "moex/quant/grouped.py",
        "zero.t()[..., None], out.view(grouped))",
        "zero.t().roll(1, 1)[..., None], out.view(grouped))",
        "tests/quant",
    ),
    Bug(
        "the gate predicts the layer's own experts",
        "moex/models/router_scores.py",
        "starts = range(0, len(weight), self._experts)",
        "starts = [0] * len(range(0, len(weight), self._experts))",
        "tests/models tests/prefetch " + RUN,
    ),
    Bug(
        "a file is written in its place",
        "moex/runs/atomic.py",
        'partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")',
        "partial = path",
        "tests/runs tests/test_faults.py tests/store",
    ),
)


def fails(folder: Path, tests: str) -> bool:
    """Whether a test fails in a checkout."""
    environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    command = f"{sys.executable} -m pytest -q -x -n 0 -p no:cacheprovider {tests}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, check=False
    )
    return done.returncode == 1


def main() -> None:
    """Plant every bug, and print whether it was caught."""
    given = arguments(__doc__, tiny={"only": [1]}, only=([], "numbers of bugs", int))
    only = {int(number) for number in given.only} or set(range(1, len(BUGS) + 1))
    with tempfile.TemporaryDirectory() as temporary:
        folder, git = Path(temporary) / "planted", ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--detach", "-q", str(folder), "HEAD"], check=True)
        try:
            found = 0
            for number, bug in enumerate(BUGS, 1):
                if number not in only:
                    continue
                path = folder / bug.file
                text = path.read_text()
                if text.count(bug.line) != 1:
                    raise SystemExit(f"{bug.file}: expected one line {bug.line!r}")
                path.write_text(text.replace(bug.line, bug.becomes))
                caught = fails(folder, bug.tests)
                path.write_text(text)
                found += caught
                print(f"{number:2} {'caught' if caught else 'MISSED'}  {bug.name}", flush=True)
            print(f"{found} of {len(only)} caught")
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


if __name__ == "__main__":
    main()
