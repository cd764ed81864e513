"""mode=curves: hits of a policy at every capacity."""

from __future__ import annotations

import json

from test_plan import run


def test_the_file_has_every_capacity_of_the_bundled_trace(tmp_path):
    done = run("mode=curves", "cache=fifo", "tracker=none", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (path,) = tmp_path.glob("results/*/curve.json")
    curve = json.loads(path.read_text())
    assert curve["slots"] == list(range(2, 9))
    assert curve["hits"] == sorted(curve["hits"])
    assert (found["mode"], found["requests"]) == ("curves", curve["requests"])
    assert found["bottleneck"].startswith("hit rate by slots a layer: 2 slots 0.")
