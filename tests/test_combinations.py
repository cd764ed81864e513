"""A dozen combinations of `experiments/benchmarks/random_combinations`, and recordings of them."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import subprocess
import sys

import pytest

from moex.cli.errors import CONF, register_resolvers

SCRIPT = CONF.parent / "experiments/benchmarks/random_combinations/combine.py"
spec = importlib.util.spec_from_file_location("combine", SCRIPT)
assert spec is not None
assert spec.loader is not None
combine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(combine)

sys.modules["combine"] = combine
spec = importlib.util.spec_from_file_location("golden", SCRIPT.with_name("golden.py"))
assert spec is not None
assert spec.loader is not None
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

SMALL = [number for number in range(40) if combine.combination(number)[0] != "tiny"][:12]


@pytest.mark.timeout(120)  # a deadlock is a failure
@pytest.mark.parametrize("number", SMALL)
def test_a_combination_is_bit_equal_ends_and_leaves_nothing(checkpoints, number):
    register_resolvers()
    row = combine.check(number, checkpoints)
    assert row["wrong"] == {}, row["words"]


@pytest.mark.study
def test_the_tiny_form_of_the_script_runs():
    words = [sys.executable, combine.__file__, "--tiny"]
    done = subprocess.run(words, cwd=CONF.parent, capture_output=True, text=True, check=False)
    assert "2 combinations, 0 failed" in done.stdout, done.stderr


def test_combinations_differ_and_can_be_repeated():
    assert combine.combination(3) == combine.combination(3)
    assert len({tuple(combine.combination(number)[1]) for number in range(50)}) == 50


def record_of_two_plans():
    plan = [0, [[0, 1]], [3], [], [], [], [], [], [], 1, [], [], []]
    row = {"requests": 4, "hit_rate": 0.5, "skipped": 0}
    return {"simulated": {"row": row, "plans": [plan, [1, *plan[1:]]]}}


def test_a_recording_differs_from_another_row_and_another_plan():
    before, now = record_of_two_plans(), record_of_two_plans()
    now["simulated"]["row"]["hit_rate"] += 1e-14
    assert [*golden.differences(before, now)] == []
    now["simulated"]["row"] = {"requests": 5, "hit_rate": 0.50001}
    now["simulated"]["plans"][1][2] = [2]
    assert [*golden.differences(before, now)] == [
        "simulated requests: was 4, is 5",
        "simulated hit_rate: was 0.5, is 0.50001",
        "simulated skipped: was 0, is absent",
        "simulated plan 1 field 2: was [3], is [2]",
    ]
    assert [*golden.differences(before, {"simulated": {"row": {}, "plans": []}})][-1] == (
        "simulated plans: were 2, are 0"
    )


def test_a_recording_follows_renamed_and_removed_fields(monkeypatch):
    before, now = record_of_two_plans(), record_of_two_plans()
    now["simulated"]["row"] = {"accesses": 4, "hit_rate": 0.5}
    for plan in now["simulated"]["plans"]:
        plan[1:3] = plan[2:0:-1]
        del plan[8]
    monkeypatch.setattr(golden, "RENAMED", {"requests": "accesses", "skipped": None})
    monkeypatch.setattr(golden, "PLAN", (0, 2, 1, *range(3, 8), None, *range(8, 12)))
    assert [*golden.differences(before, now)] == []


@pytest.mark.slow
def test_what_is_recorded_is_reproduced_and_a_change_is_found(tmp_path):
    def call(what, path, *more):
        words = [sys.executable, golden.__file__, what, str(path), *more]
        return subprocess.run(words, cwd=CONF.parent, capture_output=True, text=True, check=False)

    path = tmp_path / "golden.json.gz"
    assert call("record", path, "--count", "2").returncode == 0
    assert call("check", path).returncode == 0
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    changed = copy.deepcopy(recorded)
    changed[1][2]["live"]["row"]["texts"][0][-1] += 1
    path.write_bytes(gzip.compress(json.dumps(changed).encode()))
    found = call("check", path)
    assert found.returncode == 1
    assert "live texts" in found.stdout
    assert "2 configurations, 1 different" in found.stdout
