"""Figures can be read without colour, and say where lines lie on each other."""

from __future__ import annotations

import pandas as pd

from analysis import figures, plot
from analysis.style import FOREIGN, MOST_INTERVALS, NAMES, every, policy_style


def test_marker_and_line_tell_policies_apart_without_colour():
    looks = {(style["marker"], style["linestyle"]) for style in map(policy_style, NAMES)}
    assert len(looks) == len(NAMES)
    assert policy_style("somebody_s_own")["marker"] in FOREIGN


def test_policies_that_coincide_are_named():
    points = [("lru", 2, 0.5), ("lru", 3, 0.6), ("fifo", 2, 0.5), ("fifo", 3, 0.7)]
    points += [("lru_k", 3, 0.6), ("lru_k", 2, 0.5)]
    found = pd.DataFrame(points, columns=["policy", "slots", "middle"])
    same = figures.coincident(found, "policy", ["slots"])
    assert same == " They coincide: lru and lru_k."
    assert figures.coincident(found[found["policy"] != "lru"], "policy", ["slots"]) == ""


def test_the_caption_of_a_zoo_figure_says_which_lines_coincide():
    rows = [
        {
            "source": "sim", "prefetcher": "none", "miss": "fetch", "pool": "layer", "seed": 0,
            "policy": policy, "slots": slots, "hit_rate": slots / 10 + 0.1 * (policy == "lfu"),
            "model": "tiny", "workload": "short", "mode": "simulate", "smoke": False,
            "git": "abc", "dirty": False, "machine": "m", "emulated": False, "tasks": [],
        }
        for policy in ("lru", "sieve", "lfu")
        for slots in (2, 3)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    assert "They coincide: lru and sieve." in figures.hits_by_slots(table).get_label()
    drawn = plot.plot(table, "slots", "hit_rate", "cache")
    assert "They coincide: lru and sieve." in drawn.get_label()


def test_dense_intervals_are_thinned():
    assert [every(count) for count in (0, 1, MOST_INTERVALS, MOST_INTERVALS + 1)] == [1, 1, 1, 2]
