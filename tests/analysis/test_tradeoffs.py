"""Figures of accuracy against what it is given for, from rows made by hand."""

from __future__ import annotations

import json
from math import log

import pandas as pd
import pytest

from analysis import tradeoffs
from moex.report import Report


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


def test_the_grid_of_bits_stands_beside_the_paper_s():
    def words(bits: int | None) -> dict[str, int] | None:
        return bits and {"bits": bits, "group_size": 64}  # type: ignore[return-value]

    table = pd.DataFrame(
        row(
            {"quant.attention": words(one), "quant.gate_up": words(two), "quant.down": words(two)},
            quant="mixed",
        )
        for one in (None, 2)
        for two in (None, 4)
    )
    other = {"quant.attention": None, "quant.gate_up": words(2), "quant.down": words(4)}
    table.loc[len(table)] = row(other, quant="mixed")  # type: ignore[call-overload]
    grid = tradeoffs.quant_grid(table)
    found = list(zip(grid["attention"], grid["experts"], strict=True))
    assert found == [(16, 16), (16, 4), (2, 16), (2, 4)]
    assert grid["paper"].tolist()[-1] == pytest.approx(log(5.08 / 3.59))
    assert len(tradeoffs.quant_table(table).axes) == 2


def test_the_pareto_figure_takes_live_rows_behind_the_toy_link():
    fields = {"mode": "live", "hardware": "toy", "emulated": True, "skeleton_bytes": 10}
    table = pd.DataFrame(
        row(
            {},
            capacity_bytes=slots,
            tokens_per_second=float(slots),
            slots=slots,
            quant=name,
            **fields,
        )
        for slots in (2, 4)
        for name in ("none", "hqq_4bit")
    )
    assert len(tradeoffs.pareto_rows(table)) == 4
    assert "emulated" in tradeoffs.pareto(table).get_label()
    with pytest.raises(ValueError, match=r"experiment=pareto"):
        tradeoffs.pareto(table.assign(tokens_per_second=None))
