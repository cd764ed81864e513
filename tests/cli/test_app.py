"""The command line: rows, replay, and one clear line for what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moex.runs.report import Report

ROOT = Path(__file__).parents[2]
LIVE = ("workload.repeats=2", "memory.slots=3", "memory.store=ram")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def start(results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", f"hydra.run.dir={results}/${{run_id:}}", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ, check=False
    )


def row(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def model(mixtral):
    return ["model=hf", f"model.name={mixtral}", "workload.new_tokens=6", "workload.warmup=0"]


@pytest.fixture(scope="module")
def live(results, model):
    return row(start(results, *model, *LIVE))


def test_a_live_run_prints_its_row_last_and_keeps_it(results, live):
    folder = results / live["run_id"]
    assert json.loads((folder / "result.json").read_text()) == live
    assert set(live) == set(Report().__dict__)
    assert live["tokens_decode"] == 8 * 5
    assert (live["policy"], live["prefetcher"]) == ("lru", "gate")
    parts = ("resident_hits", "prefetch_hits", "late_hits", "demand_misses")
    assert live["requests"] == sum(live[name] for name in parts) == 8 * 5 * 4 * 2
    lines = (folder / "series.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 8 * 6
    counts = json.loads((folder / "counts.json").read_text())
    assert [len(row) for row in counts] == [8] * 4
    used = live["requests"] + live["prefill_requests"]
    assert sum(map(sum, counts)) == used


@pytest.mark.study
def test_a_live_run_says_what_limits_it_unless_told_not_to(results, model, live):
    assert "-limited at" in live["bottleneck"]
    assert "gains by replays with the run's costs; as it is, they give" in live["bottleneck"]
    stall = f"{live['tokens_per_second']:.3g} tokens/s ({live['stall_share']:.0%} stall)"
    assert stall in live["bottleneck"], "the same figures as in the row"
    silent = row(start(results, *model, *LIVE, "bottleneck=false", "workload.repeats=1"))
    assert silent["bottleneck"] is None


def test_counts_of_a_run_pin_the_favourites_of_another(results, live):
    folder = results / live["run_id"]
    words = ["mode=simulate", f"trace={folder / 'trace.parquet'}", "memory.slots=3"]
    words += ["prefetch=none", "cache=static", f"cache.counts={folder / 'counts.json'}"]
    static = row(start(results, *words))
    counts = json.loads((folder / "counts.json").read_text())
    pinned = sum(sum(sorted(uses)[-3:]) for uses in counts)
    hits = static["resident_hits"] + static["prefill_resident_hits"]
    assert hits == pinned - 4 * 3  # each enters by one load


def test_replaying_the_trace_gives_the_same_counts(results, live):
    trace = results / live["run_id"] / "trace.parquet"
    simulated = row(start(results, "mode=simulate", f"trace={trace}", "memory.slots=3"))
    same = [n for n in Report().__dict__ if "hit" in n or "prefetch" in n or "bytes" in n]
    same = [n for n in same if not n.startswith("peak") and not n.startswith("link")]
    same = [
        n for n in same if n not in ("skeleton_bytes", "planned_device_bytes", "predictor_bytes")
    ]
    assert {n: simulated[n] for n in same} == {n: live[n] for n in same}
    assert simulated["source"] == "sim"
    assert simulated["tokens_per_second"] is None


def test_the_same_command_again_shows_the_row_without_running(results, model, live):
    again = start(results, *model, *LIVE)
    assert row(again) == live
    assert "finished before" in again.stderr


@pytest.mark.study
def test_a_folder_of_the_users_own_choice_does_not_answer_for_another_run(tmp_path):
    words = ["mode=simulate", "prefetch=none", f"hydra.run.dir={tmp_path}"]
    first = row(start(tmp_path, *words, "cache=lru"))
    other = start(tmp_path, *words, "cache=fifo")
    assert row(other)["policy"] == "fifo"
    assert "held another run" in other.stderr
    assert json.loads((tmp_path / "result.previous.json").read_text()) == first


@pytest.mark.study
def test_an_oracle_records_its_future_first(results, model):
    oracle = row(start(results, *model, "workload.repeats=1", "cache=belady", "memory.slots=3"))
    assert oracle["oracle"] is True
    assert oracle["requests"] == 320


@pytest.mark.study
def test_experts_are_read_from_disk_unless_told_otherwise(results, model, live):
    disk = row(start(results, *model, "workload.repeats=1", "memory.slots=3"))
    assert (disk["link"], disk["store"]) == ("disk", "disk")
    assert disk["io"] == "aio"
    assert disk["files_warm"] is False
    assert (live["link"], live["store"], live["io"]) == ("copy", "ram", None)
    decided = ("requests", "resident_hits")
    assert {name: disk[name] for name in decided} == {name: live[name] for name in decided}
    assert disk["bytes_moved"] > 0
    paused = (live["prefetch_paused"], live["prefetch_issued"])
    assert paused == (1, 0), "a link that copies in the computing thread hides nothing"
    assert disk["prefetch_issued"] > 0


@pytest.mark.study
@pytest.mark.parametrize("runner", ["stock", "accelerate"])
def test_a_baseline_runs_the_same_workload_for_the_same_row(results, model, live, runner):
    baseline = row(start(results, *model, "workload.repeats=1", f"runner={runner}"))
    assert set(baseline) == set(live)
    assert baseline["tokens_decode"] == live["tokens_decode"]
    assert baseline["runner"] == runner
    assert baseline["tokens_per_second"] > 0


def test_what_is_wrong_is_said_on_stderr_with_exit_code_1(results):
    done = start(results, "prefetch.depth=9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("moex: prefetch.depth=9: expected 1 to 3 layers ahead")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cache=lur"], "cache=lur: there is no such option; expected one of"),
        (["memory.slot=3"], "memory.slot: there is no such key; expected one of allocate, "),
        (["memry.slots=3"], "try memory.slots=3"),
        (["memory.slots"], "expected key=value, e.g. cache=lru"),
        (
            ["mode=simulate", "trace=null"],
            "trace=null: mode=simulate replays a recorded trace; try trace=tiny",
        ),
        (["mode=simulate", "trace=nowhere.parquet"], "trace=nowhere.parquet: no such file"),
        (["mode=simulate", "trace=run.py"], "trace=run.py: not a whole parquet file"),
        (["model=hf", "model.name=conf"], "has no config.json"),
        (["prefetch.depth=9"], "prefetch.depth=9: expected 1 to 3 layers ahead"),
        (["memory.store=tape"], "memory.store=tape: expected one of auto, disk, ram"),
        (["eval.tasks=[moex_swap,foo]"], "eval.tasks: no task named 'foo': local tasks are moex_"),
        (["eval.tasks=[heldout_swap]"], "'heldout_swap' reads held-out text and eval.text_dir"),
        (["eval.tasks=[blimp_local]", "eval.data_dir=conf"], "no published items at conf/blimp"),
        (["eval.tasks=moex_swap"], "expected a list of text; try eval.tasks=[moex_swap]"),
        (["objective=speed"], "objective=speed: the row has no such number"),
        (["objective=bottleneck"], "objective=bottleneck: the row has no such number"),
        (
            ["memory.slots=abc"],
            "memory.slots=abc: expected a whole number or a number or a list",
        ),
        (["workload.new_tokens=0"], "workload.new_tokens=0: expected a number, at least 2"),
        (["workload.new_tokens=abc"], "workload.new_tokens=abc: expected a whole number; try"),
        (["seed=abc"], "seed=abc: expected a whole number"),
        (["cache=[lru, lfu]"], "expected cache=OPTION; for a sweep, try python run.py -m cache="),
        (["+x.y=3"], "x.y: there is no such key; expected one of ablation, baseline, "),
        (["+memry.slots=3"], "try memory.slots=3"),
        (["cache@foo=lru"], "cache@foo: a group is set once; try cache=lru"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_exit_code_1(results, words, line, here):
    code, out, err = here(f"hydra.run.dir={results}/${{run_id:}}", *words)
    assert code == 1
    assert line in err
    assert err.count("\n") == 1, err
    assert out == ""


@pytest.mark.study
@pytest.mark.parametrize(
    ("slots", "line"),
    [("slots=-1", "memory.slots=-1: expected 0"), ("slots=[1,2]", "try memory.slots=4")],
)
def test_slots_that_no_model_has_get_one_line(results, model, slots, line):
    done = start(results, *model, f"memory.{slots}")
    assert done.returncode == 1
    assert line in done.stderr.splitlines()[-1]


@pytest.mark.study
def test_a_cache_folder_that_cannot_be_written_gets_one_line(results, model):
    done = start(results, *model, "cache_dir=run.py")
    assert done.returncode == 1
    assert done.stderr.startswith("moex: store: cannot pack into run.py/")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.study
def test_a_budget_that_holds_nothing_says_what_would(results, model):
    done = start(results, *model, "memory.slots=null", "memory.budget=100kB")
    assert done.returncode == 1
    assert "expected at least" in done.stderr.splitlines()[-1]


def test_a_bad_cell_of_a_sweep_does_not_stop_the_others(results):
    words = ["mode=simulate", "bottleneck=false", "prefetch=none", "memory.slots=9,3", "-m"]
    done = start(results, f"hydra.sweep.dir={results}", *words)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["slots"] == 3
    assert "memory.slots=9: expected 0" in done.stderr
    assert "1 of 2 cells of the sweep failed" in done.stderr.splitlines()[-1]
    assert not [folder for folder in results.iterdir() if not any(folder.iterdir())]
