"""Figures of accuracy against what it is given for, from rows made by hand."""

from __future__ import annotations

import json
from math import log

import pandas as pd
import pytest

from analysis import choices, live, scores, tables, tradeoffs
from analysis.tradeoffs import GROUPS
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.paths import trace_path
from moex.runs.report import Report
from moex.sim.simulator import simulate
from moex.trace.format import write_trace


def task(name: str, value: float, **more: float) -> dict[str, object]:
    return {"task": name, "metric": "acc", "value": value, "stderr": 0.03, "n": 100, **more}


TASKS = [task("a", 0.8), task("b", 0.6), task("b/part", 0.0)]


def row(config: dict[str, object], **fields: object) -> dict[str, object]:
    given = {"source": "live", "mode": "eval", "model": "tiny", "tasks": TASKS, **fields}
    report = Report(accuracy_key=str((config, fields)), **given)  # type: ignore[arg-type]
    return json.loads(json.dumps(report.__dict__)) | config


def test_accuracy_is_the_mean_of_tasks_without_their_parts():
    mean, error, apart, _ = tradeoffs.accuracy(TASKS)
    assert (mean, error, apart) == (pytest.approx(70), pytest.approx(100 * 0.03 * 2**0.5 / 2), None)
    paired = [task("a", 0.8, difference=-0.1, difference_stderr=0.03), task("b", 0.6)]
    assert tradeoffs.accuracy(paired)[2] is None, "one task alone is no mean"
    paired[1] |= {"difference": 0.02, "difference_stderr": 0.04}
    assert tradeoffs.accuracy(paired)[2:] == (pytest.approx(-4), pytest.approx(2.5))


def test_accuracy_over_neurons_has_a_line_for_every_selector():
    table = pd.DataFrame(
        row({"sparsity.fraction": share}, sparsity=name)
        for name in ("corm", "oracle", "none")
        for share in (0.1, 0.5)
    )
    axis = tradeoffs.sparsity(table).axes[0]
    assert axis.get_legend_handles_labels()[1] == [
        "all neurons",
        "sparsity=corm",
        "sparsity=oracle",
    ]
    text = scores.corm_sparsity(table)
    assert text.startswith("| neurons computed | 10 % | 50 % |\n")
    assert "| corm | 70.0 ± 2.1 % | 70.0 ± 2.1 % |" in text
    apart = [task(name, 0.7, difference=-0.01, difference_stderr=0.02) for name in "ab"]
    half = table["sparsity.fraction"] == 0.5
    table["tasks"] = [apart if half[n] else tasks for n, tasks in enumerate(table["tasks"])]
    assert "| oracle | 70.0 ± 2.1 % | -1.00 ± 1.41 |" in scores.corm_sparsity(table)


def test_the_grid_of_bits_stands_beside_the_paper_s():
    def words(bits: int | None) -> dict[str, int] | None:
        return bits and {"bits": bits, "group_size": GROUPS[bits]}

    table = pd.DataFrame(
        row(
            {"quant.attention": words(one), "quant.gate_up": words(two), "quant.down": words(two)},
            quant="mixed",
            bits_per_weight=4.333,
        )
        for one in (None, 2)
        for two in (None, 4)
    )
    other = {"quant.attention": None, "quant.gate_up": words(2), "quant.down": words(4)}
    table.loc[len(table)] = row(other, quant="mixed")  # type: ignore[call-overload]
    coarse = {"bits": 4, "group_size": 128}  # of experiment=quant_groups
    other = {"quant.attention": None, "quant.gate_up": coarse, "quant.down": coarse}
    table.loc[len(table)] = row(other, quant="mixed")  # type: ignore[call-overload]
    grid = tradeoffs.quant_grid(table)
    found = list(zip(grid["attention"], grid["experts"], strict=True))
    assert found == [(16, 16), (16, 4), (2, 16), (2, 4)]
    assert grid["paper"].tolist()[-1] == pytest.approx(log(5.08 / 3.59))
    assert len(tradeoffs.quant_table(table).axes) == 2
    text = scores.quant_table(table)
    assert "| 2 | 4 | 4.333 | 70.0 ± 2.1 |  | +0.347 |" in text
    assert text.count("\n") == 2 + len(grid)


def test_the_pareto_table_says_what_is_on_the_front():
    fields = {"mode": "live", "hardware": "toy", "emulated": True, "workload": "turns"}
    table = pd.DataFrame(
        row(
            {"accuracy_key": name},  # the same items whatever the slots
            capacity_bytes=(slots if name == "none" else slots // 2) * 10**6,
            skeleton_bytes=10**6,
            tokens_per_second=float(slots),
            slots=slots,
            quant=name,
            **fields,
        )
        for slots in (2, 4)
        for name in ("none", "hqq_4bit")
    )
    assert len(choices.pareto_rows(table)) == 4
    points = choices.pareto_points(table).set_index(["quant", "slots"])
    assert points["front"].to_dict() == {
        ("none", 2): False,  # half the bytes are as fast and as accurate
        ("none", 4): False,
        ("hqq_4bit", 2): True,
        ("hqq_4bit", 4): True,
    }
    assert "emulated" in choices.pareto(table).get_label()
    assert "| hqq_4bit | 2 | 2.0 | 2.0 | 70.0 ± 2.1 | yes |" in tables.pareto(table)
    with_neurons = choices.pareto_rows(table.assign(sparsity="corm"))
    assert "| hqq_4bit sparsity=corm | 2 | 2.0 |" in tables.pareto(with_neurons)
    with pytest.raises(ValueError, match=r"experiment=pareto"):
        choices.pareto(table.assign(tokens_per_second=None))


def test_table_2_s_live_rows_stand_beside_the_paper_s_ratios():
    fields = {"mode": "live", "hardware": "auto", "emulated": False, "workload": "turns"}
    kinds = {
        "stock": {"runner": "stock", "tokens_per_second": 80.0},
        "accelerate": {"runner": "accelerate", "tokens_per_second": 10.0},
        "full": {
            "runner": "moex",
            "policy": "lru",
            "prefetcher": "gate",
            "tokens_per_second": 25.0,
        },
    }
    table = pd.DataFrame(
        row({"memory.slots": 0.5}, seed=seed, store="disk", **fields, **kind)
        for kind in kinds.values()
        for seed in range(3)
    )
    text = tables.tab2_live(live.ablation_rows(table))
    assert "| full | 25.0 | 2.50 | 2.20 to 3.16 |" in text
    drawn = [tick.get_text() for tick in live.ablation(table).axes[0].get_yticklabels()]
    assert drawn[::-1] == [live.ROWS[0], live.ROWS[2], live.ROWS[5]]
    assert not len(live.ablation_rows(table[table["runner"] == "moex"])), "no baseline, no figure"


def test_the_two_ends_tell_what_computing_and_a_load_cost():
    fields = {"mode": "live", "workload": "turns", "runner": "moex", "policy": "lru"}
    fields |= {"store": "disk", "prefetcher": "none", "requests": 100}
    fields |= {"bytes_moved": 200_000_000}
    ends = {2: (80, 5.0, 1.0), 8: (0, 2.0, 0.0)}  # misses, seconds, of which waiting
    table = pd.DataFrame(
        row({"memory.slots": slots}, slots=slots, demand_misses=n, decode_s=s, stall_s=w, **fields)
        for slots, (n, s, w) in ends.items()
    )
    profile = live.machine(live.slots_rows(table), 2)
    assert profile.visit_s == pytest.approx(0.04)
    assert profile.load_s == pytest.approx((0.04 - 0.02) / 0.8)
    assert profile.link_bytes_per_s == 2e8
    with pytest.raises(ValueError, match="experiment=slots_speed_live"):
        live.machine(table[:1], 2)


def test_a_forecast_from_the_two_ends_finds_the_machine_again(tmp_path):
    trace = read_trace(trace_path("tiny")).select(slice(0, 1800))
    machine = HardwareProfile(
        "known", link_bytes_per_s=1e9, link_latency_s=1e-4, visit_s=5e-4, expert_s=1e-4, load_s=5e-5
    )
    write_trace(trace, tmp_path / "trace.parquet")
    rows = []
    for slots in (2, 4, 8):
        for name, kind in live.PREFETCHERS.items():
            cache = ExpertCache(LRU(), trace.geometry, slots)
            report = simulate(trace, cache, kind(), machine)
            known = {k: v for k, v in report.__dict__.items() if v not in (None, "", [])}
            known |= {"mode": "live", "runner": "moex", "policy": "lru", "prefetcher": name}
            known |= {"store": "disk", "workload": "turns", "slots": slots, "source": "live"}
            rows.append(row({"memory.slots": slots, "folder": str(tmp_path)}, **known))
    found = live.forecast(pd.DataFrame(rows))
    assert len(found) == 6
    assert found["sets_costs"].sum() == 2
    assert found["off"].abs().max() < 0.05
    assert (found["stall"] - found["simulated_stall"]).abs().max() < 0.05
