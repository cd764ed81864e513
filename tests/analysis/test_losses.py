"""Figures of losses and tables of accuracy, from rows made by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import losses

KINDS = ("attention", "gate_up", "down")


def loss(more: float, attention: int = 16, gate_up: int = 16, down: int = 16, group: int = 64):
    row = {"model": "tiny", "windows": 32, "attention": attention, "gate_up": gate_up}
    quantized = min(gate_up, down) < 16
    row |= {"down": down, "group": group if quantized else 0, "stderr": more / 10}
    row |= {"bits_per_weight": min(gate_up, down) + 16 / group, "more": more}
    return row


TABLE = [
    loss((16 - a) / 40 + (16 - e) / 50, a, e, e, losses.GROUPS[e] or 64)
    for a in losses.BITS
    for e in losses.BITS
]
ALONE = [loss((16 - bits) / 50, **{kind: bits}) for kind in KINDS for bits in (4, 3, 2)]
GROUPS = [loss(size / (100 * bits), 16, bits, bits, size) for bits in (3, 2) for size in (32, 128)]


def test_both_grids_are_full_and_lose_nothing_in_16_bits():
    figure = losses.bits_table(pd.DataFrame(GROUPS + TABLE + ALONE))
    for axis in figure.axes:
        grid = axis.images[0].get_array()
        assert grid.shape == (4, 4)
        assert grid[0, 0] == 0
        assert grid.argmax() == 15
    ours = figure.axes[0].images[0].get_array()
    assert ours[0, 3] == pytest.approx(0.28), "other group sizes are another study"
    with pytest.raises(ValueError, match=r"not all of table 1's bits in 3 rows; try: python"):
        losses.bits_table(pd.DataFrame(TABLE[:3]))


def test_a_line_a_kind_of_weight_that_alone_has_few_bits():
    axis = losses.sensitivity(pd.DataFrame(TABLE + ALONE)).axes[0]
    assert axis.get_legend_handles_labels()[1] == ["gate and up", "down", "attention"]
    attention = axis.containers[2].lines[0].get_ydata()
    assert list(attention) == pytest.approx([0.3, 0.325, 0.35])
    with pytest.raises(ValueError, match="one kind of weight alone"):
        losses.sensitivity(pd.DataFrame(GROUPS))


def test_a_line_for_each_number_of_bits_over_bits_a_weight():
    axis = losses.group_sizes(pd.DataFrame(GROUPS + ALONE)).axes[0]
    assert axis.get_legend_handles_labels()[1] == ["3 bits", "2 bits"]
    assert list(axis.containers[1].lines[0].get_xdata()) == [2.5, 2.125]
    assert [text.get_text() for text in axis.texts] == ["g32", "g128"] * 2
    with pytest.raises(ValueError, match="several group sizes"):
        losses.group_sizes(pd.DataFrame(ALONE))
