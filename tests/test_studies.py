"""The studies of neurons and predictors: their tiny forms run, and what they compute is right."""

from __future__ import annotations

import json
import lzma
import runpy
import sys
from random import Random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from studies import EXPERIMENTS, ROOT, run, script

from moex.api import read_trace
from moex.sim.curves.stack import curves

pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Documents enough to cut windows from."""
    folder = tmp_path_factory.mktemp("text")
    prompts = yaml.safe_load((ROOT / "conf" / "workload" / "short.yaml").read_text())["prompts"]
    sentences, draw = [s for prompt in prompts for s in prompt.split(". ")], Random(0)
    for number in range(22):
        words = " ".join(". ".join(draw.sample(sentences, len(sentences))) for _ in range(3))
        (folder / f"{number:02d}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module")
def traces(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "studies/two_level/record.py", "--text", text, "--out", folder)
    return folder


def held_out(text, folder, splits):
    """A folder of documents, one of every split and source."""
    body = " ".join(path.read_text() for path in sorted(text.glob("*.txt"))[:8])
    for source in ("novels/novels", "wikipedia-articles/articles"):
        path = folder / f"{source}.jsonl.xz"
        path.parent.mkdir(parents=True)
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"split": s, "text": body}) + "\n" for s in splits)


def test_activation_statistics_are_drawn(text, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "studies/activation_stats/study.py", "--text", text, "--out", tmp_path)
    assert (tmp_path / "activation_stats.png").is_file()
    assert capsys.readouterr().out.count("\n| ") == 7, "a head and six layers"


def test_a_power_law_is_found_where_there_is_one():
    study = script("studies/activation_stats/study.py")
    rank = np.arange(1, 301)
    exponent, power, exponential = study.power_law(0.9 * rank**-0.7)
    assert exponent == pytest.approx(0.7)
    assert power == pytest.approx(1)
    assert exponential < 0.9
    assert study.power_law(0.9 * np.exp(-0.01 * rank))[2] == pytest.approx(1)


def test_neurons_hot_in_one_half_only_are_not_hot():
    study = script("studies/activation_stats/study.py")
    used = torch.zeros(8, 4, dtype=torch.bool)
    used[:, 2] = True  # hot in both halves
    used[0:6:2, 1] = True  # in one
    assert study.ranked(used)[0] == 1
    assert study.ranked(used)[1] == 0
    both = torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 1, 0]]).bool()
    assert study.jaccard(*both) == pytest.approx(1 / 3)


def test_parts_of_the_two_level_cache_are_taken_away(traces, monkeypatch, capsys):
    run(monkeypatch, "studies/two_level/study.py", "--traces", traces)
    told = capsys.readouterr().out
    assert "| no coarse" in told
    assert "ms/token by r" in told


def test_thin_places_take_no_more_bytes_than_whole_ones(traces):
    study = script("studies/two_level/study.py")
    trace = study.read_trace(traces / "predicted.parquet")
    geometry = trace.geometry
    for budget in (2, 3, 4):
        for rows in (1.0, 0.5, 0.3):
            for spent in (0, 3_000_000):
                count, share = study.equal_slots(trace, budget, rows, spent)
                places = count * geometry.layers + 2 * geometry.top_k
                whole = (budget * geometry.layers + 2 * geometry.top_k) * geometry.expert_bytes
                assert not count or places * share * geometry.expert_bytes + spent <= whole
                assert share >= rows - 1 / geometry.intermediate


def test_true_geometry_is_simulated(traces, monkeypatch, capsys):
    run(monkeypatch, "studies/mixtral_neurons/study.py", "--traces", traces)
    assert "| rtx3060 | perfect kernels | 2 | 2 |" in capsys.readouterr().out


def test_predictor_bytes_are_those_of_the_bundled_one_at_its_geometry():
    from moex.runner.assemble import load_model
    from moex.sparsity.corm import Corm

    study, loaded = script("studies/mixtral_neurons/study.py"), load_model("tiny")
    selector = Corm()
    selector.bind(loaded.geometry, loaded.folder)
    told = study.selector_bytes(loaded.geometry, study.RANK)
    assert told == pytest.approx(selector.device_bytes, rel=0.01)


def test_a_useless_predictor_is_compared_simulated_and_live(traces, tmp_path, monkeypatch, capsys):
    path = "studies/useless_predictor/study.py"
    run(monkeypatch, path, "simulated", "--traces", traces)
    assert "worst of all" in capsys.readouterr().out
    run(monkeypatch, path, "live", "--out", tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["emulated"] for row in rows] == [True]
    run(monkeypatch, path, "governor")
    assert "| random | 1 chunk |" in capsys.readouterr().out


def test_speed_and_accuracy_are_joined_where_the_setting_is_one():
    study = script("studies/speed_accuracy/figure.py")
    accuracy = pd.DataFrame(
        [
            {"fraction": fraction, "mode": "predicted", "rank": 0, "apart": -1.0}
            | {"apart_stderr": 0.2, "items": 400}
            for fraction in (0.1, 0.3)
        ]
    )
    line = {"case": "surface", "selector": "corm", "mode": "predicted", "rank": None, "slots": 3}
    line |= {"load_over_layer": 4.0, "speedup": 1.5, "low": 1.4, "high": 1.6}
    speed = study.speeds([json.dumps(line | {"fraction": f}) for f in (0.3, 0.5)])
    found = study.join(accuracy, speed)
    assert list(found["fraction"]) == [0.3]
    assert len(study.draw(found).axes) == 1


def test_hits_of_sequences_add_up_to_those_of_the_cold_trace():
    study, trace = script("studies/policy_zoo/capacities.py"), read_trace("tiny")
    parts = study.sequences(trace)
    assert len(parts) == 4
    for name in ("lru", "belady"):
        whole = curves(trace, (name,), [4], cold=True)[name]
        assert study.replay(parts, name, 4).sum() == whole.hits[0]


def test_a_planted_winner_is_found_with_its_share_of_the_gap():
    study, base = script("studies/policy_zoo/capacities.py"), np.array([40, 50, 60, 45])
    more = {"lru": 0, "lfu": 10, "fifo": -5, "belady": 20, "belady_bypass": 40}
    hits = {(name, 8): base + extra for name, extra in more.items()}
    [row] = study.winners(study.Found("planted", np.full(4, 100), hits))
    assert row[:4] == ["planted", 8, "0.4875", "lfu"]
    assert row[4].startswith("0.5875 [0.5")
    assert row[5] == "+10.0 [+10.0, +10.0]", "paired: all sequences gain alike"
    assert row[6:] == ["50.0 [50.0, 50.0]", "25.0 [25.0, 25.0]", "100 %", ""]


def test_peers_that_are_there_miss_as_often_as_moex(tmp_path):
    """libCacheSim is; LRU and LFU, access by access in one pool."""
    pytest.importorskip("libcachesim")
    bench = script("benchmarks/replay_speed/peers.py")
    trace = bench.synthetic(1920)
    none = SimpleNamespace(moe_cache_eval=None, moe_policylang=None)
    counted = {way[:3]: way.run() for way in bench.ways(trace, 8, none, tmp_path)}
    assert len(counted) == 8
    for policy in ("lru", "lfu"):
        assert counted["one pool", policy, "moex"] == counted["one pool", policy, "libCacheSim"]
        assert counted["one pool", policy, "moex"] != counted["visits", policy, "moex"]


def test_coverage_at_equal_bytes_lies_between_its_numbers_of_names():
    study = script("bundled_model/predictors/shown.py")
    rows = [{"mb_by_text": [2.0], "coverage_by_text": [0.4]}]
    rows += [{"mb_by_text": [4.0], "coverage_by_text": [0.6]}]
    assert study.at_bytes(rows, 0, 1.0) == pytest.approx(0.2)
    assert study.at_bytes(rows, 0, 3.0) == pytest.approx(0.5)


def test_losses_of_solvers_are_measured_on_held_out_documents(text, tmp_path, monkeypatch, capsys):
    held_out(text, tmp_path, ("train", "test"))
    out = tmp_path / "rows.jsonl"
    words = ("--text", tmp_path, "--out", out, "--cache", tmp_path)
    run(monkeypatch, "studies/quantization/accuracy.py", *words)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["unquantized", "hqq 8 g64", "rtn 8 g64"]
    assert all(len(row["nats"]) == 2 for row in rows), "a window of each source's test split"
    assert "hqq 8 g64 against rtn: " in capsys.readouterr().out


def test_predictors_are_measured_and_shown(text, tmp_path, monkeypatch, capsys):
    words = ("--text", text, "--out", tmp_path, "--ranks", 128)
    run(monkeypatch, "bundled_model/predictors/study.py", *words)
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert set(tables) == {"provenance", "experts", "neurons", "up_reuse", "replays"}
    assert {row["rank"] for row in tables["neurons"]} == {"all", 128}
    shown, picture = script("bundled_model/predictors/shown.py"), tmp_path / "predictors.png"
    words = ["shown.py", str(tmp_path / "tables.json"), "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    shown.main()
    told = capsys.readouterr().out
    assert "| horizon | gate predicts | MB/token | gate | linear | linear - gate (95 %) |" in told
    assert "| layers ahead | predicted | gate | gate_resid | linear | mlp |" in told
    assert picture.is_file()


def test_the_bundled_model_s_routing_of_a_text_is_a_trace(text, tmp_path, monkeypatch):
    out = tmp_path / "routing.parquet"
    run(monkeypatch, "bundled_model/predictors/routing.py", "--text", text, "--out", out)
    trace = read_trace(out)
    assert (len(trace), trace.geometry.experts) == (6 * 1024, 8)


TINY = {
    "benchmarks/disk_link/bench.py": ("reads", "decode"),
    "benchmarks/disk_link/kill.py": ("",),
    "benchmarks/foreign_kernels/bench.py": ("",),
    "benchmarks/forecast/forecast.py": ("--stores disk",),
    "benchmarks/forecast/geometries.py": ("--target mixtral",),
    "benchmarks/forecast/plan_against_simulate.py": ("",),
    "benchmarks/gpu_machine/published.py": ("",),
    "benchmarks/replay_speed/compiled.py": ("",),
    "benchmarks/replay_speed/curves.py": ("",),
    "benchmarks/replay_speed/equality.py": ("",),
    "benchmarks/replay_speed/peers.py": ("",),
    "benchmarks/replay_speed/speed.py": ("",),
    "benchmarks/replay_speed/zoo.py": ("",),
    "benchmarks/streamed_replay/bench.py": ("make", "replay", "read", "equal"),
    "benchmarks/spine/lookahead.py": ("",),
    "benchmarks/spine/overhead.py": ("",),
    "benchmarks/true_geometry/bench.py": ("decode",),
    "paper/seed1_table2/table2.py": ("",),
    "bundled_model/training/make_trace.py": ("--out trace.parquet",),
    "studies/allocation/study.py": ("",),
    "studies/host_compute/bench.py": ("simulate",),
    "benchmarks/planted_bugs.py": ("",),
    "benchmarks/revisions.py": ("",),
    "studies/neurons/as_typed.py": ("stores", "scale_model"),
    "studies/neurons/bench.py": ("disk",),
    "studies/neurons/stages.py": ("",),
    "studies/past_routing/study.py": ("",),
    "studies/policy_zoo/capacities.py": ("",),
    "studies/policy_zoo/sequential.py": ("",),
    "studies/predictor_dial/dial.py": ("",),
    "studies/quantization/bench.py": ("resident", "packing"),
    "studies/routing/study.py": ("",),
    "studies/slices/study.py": ("codes", "cache"),
    "studies/three_tiers/study.py": ("simulate", "live"),
}
"""Scripts that no other test runs, and the parts of them that take seconds."""
SLOW = {
    "benchmarks/spine/memory.py": ("",),
    "benchmarks/sweeps/bench.py": ("",),
    "benchmarks/true_geometry/against.py": ("",),
    "studies/quantization/bench.py": ("memory",),
}
"""Those that start a process for every run."""
RECORDED = ("benchmarks/replay_conformance/golden.py", "studies/learned_reuse/victims.py")
"""Those that replay a recorded routing, which is no part of the project."""


@pytest.mark.parametrize("path", RECORDED)
def test_the_tiny_form_of_a_replay_of_recorded_routing_runs(path, monkeypatch, capsys):
    if not script(RECORDED[0]).folder().is_dir():
        pytest.skip("no recorded routing: set MOEX_SHARED_DATA to the folder that holds traces/")
    run(monkeypatch, path)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_bundled_model_is_trained_from_text_and_exported(text, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "text"
    held_out(text, folder, ("train", "valid", "test"))
    work, done, model = (tmp_path / name for name in ("work", "run", "model"))
    run(monkeypatch, "bundled_model/training/prepare.py", "--text", folder, "--out", work)
    words = ("--data", work, "--out", done, "--steps", 2, "--decay", 1)
    run(monkeypatch, "bundled_model/training/train.py", *words)
    [line] = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert line["step"] == 2
    run(
        monkeypatch,
        "bundled_model/training/export.py",
        "--data",
        work,
        "--run",
        done,
        "--out",
        model,
    )
    assert json.loads((model / "config.json").read_text())["num_local_experts"] == 8
    trace = tmp_path / "trace.parquet"
    run(monkeypatch, "bundled_model/training/measure.py", "--text", folder, "--trace", trace)
    assert "| mean |" in capsys.readouterr().out
    log = EXPERIMENTS / "bundled_model/training/log.jsonl"
    run(
        monkeypatch,
        "bundled_model/training/curve.py",
        "--log",
        log,
        "--out",
        tmp_path / "curve.png",
    )
    assert (tmp_path / "curve.png").is_file()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        *((path, part) for path, loaded in TINY.items() for part in loaded),
        *(pytest.param(path, part, marks=pytest.mark.slow) for path, (part,) in SLOW.items()),
    ],
)
def test_the_tiny_form_of_a_bench_runs(path, part, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, path, *part.split())
    assert capsys.readouterr().out
    assert not list(tmp_path.glob("*.png")), "a glance draws nothing"


SCRIPTS = sorted(
    str(path.relative_to(EXPERIMENTS))
    for path in EXPERIMENTS.glob("*/*/*.py")
    if "\ndef main(" in path.read_text()
)


def test_a_test_runs_the_tiny_form_of_every_script():
    """By its path, under --tiny; test_docs.py holds that commands of READMEs parse."""
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    assert len(SCRIPTS) > 30
    for path in SCRIPTS:
        assert any(path in text for text in texts), f"no test runs {path}"
    everything = "".join(path.read_text() for path in EXPERIMENTS.glob("*/*/*.py"))
    assert "ArgumentParser" not in everything


@pytest.mark.parametrize("path", SCRIPTS)
def test_a_script_explains_its_arguments(path, monkeypatch, capsys):
    monkeypatch.syspath_prepend((EXPERIMENTS / path).parent)
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXPERIMENTS / path), run_name="__main__")
    assert ended.value.code == 0
    assert "--tiny" in capsys.readouterr().out
