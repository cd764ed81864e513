"""Figures and tables of losses, from rows made by hand."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from analysis import losses, scores, tradeoffs
from moex.runs.report import Report

TABLE = pd.DataFrame(
    {"model": "tiny", "windows": 32, "attention": a, "gate_up": e}
    | {"more": (16 - a) / 40 + (16 - e) / 50, "stderr": 0.01}
    for a in losses.BITS
    for e in losses.BITS
)


def test_both_grids_are_full_and_lose_nothing_in_16_bits():
    figure = losses.bits_table(TABLE)
    for axis in figure.axes:
        grid = axis.images[0].get_array()
        assert grid.shape == (4, 4)
        assert grid[0, 0] == 0
        assert grid.argmax() == 15
    with pytest.raises(ValueError, match=r"not all of table 1's bits in 3 rows; try: python"):
        losses.bits_table(TABLE[:3])


def scored(more: float | None, quant: str, text: str = "a", **words: object) -> dict[str, object]:
    """A result row of mode=eval eval=loss, and the leaves of its configuration."""
    task = {"task": "moex_loss", "metric": "nats_per_token", "value": 3.0, "stderr": 0.1}
    task |= {"n": 1000, "checksum": text}
    if more is not None:
        task |= {"difference": more, "difference_stderr": more / 10}
    report = Report(source="live", mode="eval", model="tiny", quant=quant, tasks=[task])
    report.bits_per_weight = 3.5
    return json.loads(json.dumps(report.__dict__)) | {f"quant.{k}": v for k, v in words.items()}


def bits(number: int, group: int | None = None) -> dict[str, int]:
    return {"bits": number, "group_size": group or losses.GROUPS[number]}


ALONE = [
    scored(more / 100, "only", kind=kind, quantizer=bits(number))
    for kind, more in (("gate_up", 1), ("down", 2), ("attention", 3))
    for number in (4, 3, 2)
]
GROUPED = [
    scored(size / 1000, "mixed", attention=None, gate_up=bits(3, size), down=bits(3, size))
    for size in (32, 128)
]
GRID = [
    scored(0.1, "mixed", attention=attention, gate_up=experts, down=experts)
    for attention in (None, bits(2))
    for experts in (None, bits(2), bits(3))
]


def test_a_line_and_a_column_a_kind_of_weight_that_alone_has_few_bits():
    other = [scored(0.5, "only", kind="down", quantizer=bits(2, 64))]
    table = pd.DataFrame(GRID + GROUPED + other + ALONE)
    rows = losses.sensitivity_rows(table)
    assert len(rows) == len(ALONE), "other groups are another study"
    axis = losses.sensitivity(rows).axes[0]
    assert axis.get_legend_handles_labels()[1] == ["gate and up", "down", "attention"]
    assert list(axis.containers[1].lines[0].get_ydata()) == [0.02] * 3
    lines = scores.quant_sensitivity(rows).splitlines()
    assert lines[2] == "| 4 | +0.0100 ± 0.0010 | +0.0200 ± 0.0020 | +0.0300 ± 0.0030 |"
    assert "loss only" in losses.sensitivity(rows).get_label()


def test_a_line_for_bits_that_come_in_several_group_sizes():
    rows = losses.group_rows(pd.DataFrame(GRID + GROUPED + ALONE))
    assert len(rows) == 3, "3 bits with 64 is a cell of both studies; 2 bits have one size only"
    axis = losses.group_sizes(rows).axes[0]
    assert axis.get_legend_handles_labels()[1] == ["3 bits"]
    assert [text.get_text() for text in axis.texts] == ["g32", "g64", "g128"]
    assert "| 3 g32 | 3.500 | +0.0320 ± 0.0032 |" in scores.quant_groups(rows)
    assert not len(losses.group_rows(pd.DataFrame(GRID + ALONE))), "no study, no figure"
    assert not len(losses.sensitivity_rows(pd.DataFrame(GRID + GROUPED)))


def test_losses_are_no_accuracies():
    assert not len(tradeoffs.quant_rows(pd.DataFrame(GRID)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scored(None, "only", kind="down", quantizer=bits(4)), "mode=eval eval=loss.*force=true"),
        (scored(0.1, "only", "b", kind="down", quantizer=bits(4)), "10 rows of 2 sets of texts"),
    ],
)
def test_rows_that_are_not_paired_or_of_other_texts_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        losses.sensitivity(pd.DataFrame([*ALONE, change]))
