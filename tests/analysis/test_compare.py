"""Only rows that are alike are pooled; what keeps rows apart is named."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING

import pytest
import yaml

from analysis.collect import collect
from analysis.compare import compare, compare_runs, main, sentence
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path

SPEED = {"gate": 1.2, "none": 1.0, "corm": 2.0}


def write(folder: Path, run: str, prefetcher: str = "gate", **fields: object) -> None:
    """A finished run whose speed is its prefetcher's, its slots' and its seed's."""
    given = {"source": "live", "mode": "live", "slots": 4, "seed": 0, "machine": "m"} | fields
    speed = SPEED[prefetcher] * given["slots"] * (10 + 5 * given["seed"])  # type: ignore[operator]
    row = Report(
        run_id=run, prefetcher=prefetcher, tokens_per_second=speed, hit_rate=speed / 1000, **given
    )  # type: ignore[arg-type]
    (folder / run).mkdir(parents=True)
    config = {"prefetch": {"_target_": prefetcher}, "memory": {"slots": given["slots"]}}
    (folder / run / "config.yaml").write_text(yaml.safe_dump(config))
    row.write(folder / run)


@pytest.fixture
def mixed(tmp_path):
    """2 prefetchers: live with 2 links, 2 sizes and 3 seeds each; simulated with 2 sizes."""
    cells = product(("gate", "none"), ("auto", "toy"), (3, 4), (0, 1, 2))
    for number, (name, hardware, slots, seed) in enumerate(cells):
        write(tmp_path, f"live{number}", name, hardware=hardware, slots=slots, seed=seed)
    for number, (name, slots) in enumerate(product(("gate", "none"), (3, 4))):
        about = {"source": "sim", "mode": "simulate", "hardware": "toy", "slots": slots}
        write(tmp_path, f"sim{number}", name, **about, machine=f"machine of {name}")
    return tmp_path


def test_only_repeats_are_pooled(mixed):
    found = compare(collect(mixed), "prefetch=gate", "prefetch=none")
    counts = {
        (each.setting["source"], each.setting["hardware"], each.setting["slots"]): each.ratio.pairs
        for each in found
    }
    assert counts == {
        ("live", "auto", "3"): 3, ("live", "auto", "4"): 3,
        ("live", "toy", "3"): 3, ("live", "toy", "4"): 3,
        ("sim", "toy", "3"): 1, ("sim", "toy", "4"): 1,
    }  # fmt: skip
    assert all(each.ratio.median == pytest.approx(1.2) for each in found)


def test_simulated_rows_compare_by_any_metric(mixed):
    table = collect(mixed)
    found = compare(table[table.source == "sim"], "slots=4", "slots=3", "hit_rate")
    assert [each.setting["prefetch"] for each in found] == ["gate", "none"]
    for each in found:
        assert (each.ratio.median, each.ratio.pairs) == (pytest.approx(4 / 3), 1)
        assert "1 pair: no interval" in sentence("slots", each.ratio)


def test_words_that_stand_for_several_rows_are_refused(mixed):
    table = collect(mixed)
    with pytest.raises(ValueError, match=r"slots=4: stands for 2 rows .* e.g. slots=4,prefetcher="):
        compare(table, "slots=4", "slots=3,prefetch=gate")
    assert compare(table, "slots=4,prefetcher=gate", "slots=3,prefetch=gate")


def test_a_word_brings_the_options_that_it_switches_on(tmp_path):
    write(tmp_path, "corm", "corm", sparsity="corm")
    write(tmp_path, "exact", "corm", sparsity="none", seed=1)
    for seed in (0, 1):
        write(tmp_path, f"gate{seed}", "gate", seed=seed)
    (found,) = compare(collect(tmp_path), "prefetch=corm", "prefetch=gate")
    assert found.ratio.pairs == 1  # the one with sparsity=corm
    (found,) = compare(collect(tmp_path), "prefetch=corm,sparsity=none", "prefetch=gate")
    assert found.ratio.pairs == 1


@pytest.mark.filterwarnings("ignore:.*rows of 2 versions", "ignore:.*times from 2 machines")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"slots": 3}, r"slots \(4 / 3\), memory.slots \(4 / 3\)"),
        ({"hardware": "toy"}, r"hardware \( / toy\)"),
        ({"seed": 7}, r"seed \(0 / 7\)"),
        ({"machine": "other"}, r"machine \(m / other\)"),
        ({"code": "abc"}, r"code \( / abc\)"),
        ({"source": "sim", "mode": "simulate"}, r"source \(live / sim\), mode"),
    ],
)
def test_without_a_pair_the_field_that_differs_is_named(tmp_path, fields, named):
    write(tmp_path, "a", "gate")
    write(tmp_path, "b", "none", **fields)
    with pytest.raises(ValueError, match=named):
        compare(collect(tmp_path), "prefetch=gate", "prefetch=none")


def test_the_advice_of_a_comparison_without_a_pair_works(tmp_path):
    write(tmp_path, "a", "gate")
    write(tmp_path, "b", "none", slots=3)
    with pytest.raises(ValueError, match="or name slots on both sides"):
        compare(collect(tmp_path), "prefetch=gate", "prefetch=none")
    (found,) = compare(collect(tmp_path), "prefetch=gate,slots=4", "prefetch=none,slots=3")
    assert found.ratio.pairs == 1


def test_wrong_words_are_named(mixed):
    table = collect(mixed)
    with pytest.raises(ValueError, match="no such row; the results have prefetcher gate, none"):
        compare(table, "prefetch=oracle", "prefetch=none")
    with pytest.raises(ValueError, match="metric=speed: none of 28 rows has a number"):
        compare(table, "prefetch=gate", "prefetch=none", "speed")
    with pytest.raises(ValueError, match="no column colour"):
        compare(table, "colour=red", "prefetch=none")


def test_noise_is_called_noise(tmp_path):
    for run, speeds in (("a", (10, 14, 9)), ("b", (11, 10, 12))):
        write(tmp_path, run)
        lines = [
            json.dumps({"round": n, "phase": "decode", "tokens": speed, "seconds": 1.0})
            for n, speed in enumerate(speeds)
        ]
        (tmp_path / run / "series.jsonl").write_text("\n".join(lines))
    ratio, differ = compare_runs(tmp_path, "a", "b")
    assert (ratio.pairs, differ) == (3, {})
    assert ratio.low < 1 < ratio.high
    assert "noise" in sentence("a / b", ratio)
    with pytest.raises(ValueError, match="no such run"):
        compare_runs(tmp_path, "a", "c")


def test_the_metric_counts_with_run_ids_too(mixed, capsys):
    main(["sim0", "sim3", "--metric", "hit_rate", "--results", str(mixed)])
    said = capsys.readouterr().out
    assert "hit_rate: sim0 / sim3 = 0.900x, 1 pair" in said
    assert "they differ in: prefetcher (gate / none), slots (3 / 4)" in said.replace("policy", "")
    with pytest.raises(ValueError, match="metric=stall_s: run sim0 has none"):
        compare_runs(mixed, "sim0", "sim3", "stall_s")
