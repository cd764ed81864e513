"""Tables to paste and figures of one's own: from rows to Markdown, CSV, LaTeX and a picture."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING

import pytest
import yaml

from analysis import plot, table
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, run: str, config: dict | None = None, **fields: object) -> None:
    given = {"source": "sim", "mode": "simulate", "model": "tiny", "machine": "m"} | fields
    (folder / run).mkdir(parents=True)
    (folder / run / "config.yaml").write_text(yaml.safe_dump(config or {}))
    Report(run_id=run, **given).write(folder / run)  # type: ignore[arg-type]


@pytest.fixture
def results(tmp_path):
    """Two policies with three numbers of slots and two seeds; the hit rate is slots / 10."""
    for n, (policy, slots, seed) in enumerate(product(("lru", "lfu"), (2, 3, 4), (0, 1))):
        rate = slots / 10 + 0.02 * seed + 0.1 * (policy == "lfu")
        config = {"cache": {"_target_": policy}, "memory": {"slots": slots}}
        counted = {"bytes_moved": 3_000_000 * slots, "tokens_decode": 2}
        about = {"policy": policy, "slots": slots, "seed": seed, "hit_rate": rate}
        write(tmp_path, f"r{n}", config, **about, **counted)
    return tmp_path


def shown(capsys, *words: str) -> str:
    table.main([*map(str, words)])
    return capsys.readouterr().out


def test_seeds_are_repeats_and_errors_stand_behind_plus_minus(results, capsys):
    out = shown(capsys, results, "--rows", "cache", "--cols", "slots", "--show", "hit_rate")
    lines = out.splitlines()
    assert lines[0] == "| cache | slots=2 | slots=3 | slots=4 |"
    assert lines[3] == "| lru | 0.21 ± 0.13 | 0.31 ± 0.13 | 0.41 ± 0.13 |"
    assert "95 % interval of the mean over seeds" in out


def test_without_keys_the_settings_that_differ_are_the_rows(results, capsys):
    out = shown(capsys, results, "--show", "mb_per_token")
    assert out.splitlines()[0] == "| policy | slots | mb_per_token |"
    assert "| lfu | 2 | 3.000 |" in out
    assert len(out.splitlines()) == 2 + 6


def test_csv_has_all_digits_and_an_error_column(results, capsys):
    words = ("--rows", "cache,slots", "--show", "hit_rate", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(shown(capsys, results, "cache=lru", *words))))
    assert [line["slots"] for line in lines] == ["2", "3", "4"]
    assert float(lines[0]["hit_rate"]) == pytest.approx(0.21)
    assert float(lines[0]["hit_rate error"]) == pytest.approx(12.71 * 0.01, rel=1e-3)


def test_latex_is_escaped_and_its_columns_are_counted(results, capsys):
    words = ("--rows", "cache", "--cols", "slots", "--show", "hit_rate,mb_per_token")
    out = shown(capsys, results, *words, "--format", "latex")
    assert out.count(r"\toprule") == out.count(r"\bottomrule") == 1
    assert r"\multicolumn{3}{c}{mb\_per\_token}" in out
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in out
    assert r"$0.21 \pm 0.13$" in out
    columns = len(re.search(r"tabular}{(\w+)}", out)[1])
    body = [line for line in out.splitlines() if line.endswith(r"\\") and "multicol" not in line]
    assert {line.count("&") + 1 for line in body} == {columns}
    assert not re.search(r"(?<!\\)[_%#](?!.*interval)", out.partition(r"\begin")[2])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(results, tmp_path, capsys):
    words = ("--rows", "cache,slots", "--show", "hit_rate,mb_per_token", "--format", "latex")
    text = shown(capsys, results, *words)
    begin = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{begin}\n{text}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "t.pdf").is_file()


def test_accuracies_of_tasks_are_columns_with_their_standard_error(tmp_path, capsys):
    for run, value in (("a", 0.5), ("b", 0.25)):
        tasks = [{"task": "copy", "metric": "acc", "value": value, "stderr": 0.02, "n": 9}]
        tasks += [{"task": "text", "metric": "nats_per_token", "value": 2.0, "stderr": None}]
        write(tmp_path, run, quant=run, tasks=tasks)
    out = shown(capsys, tmp_path, "--rows", "quant", "--show", "copy,text_nats_per_token")
    assert "| a | 0.500 ± 0.020 | 2 |" in out
    assert "| b | 0.250 ± 0.020 | 2 |" in out
    assert "copy" in shown(capsys, tmp_path, "--rows", "quant").splitlines()[0]


def test_only_the_cells_of_a_sweep_are_read_where_one_is_named(results, capsys):
    (results / ".sweeps").mkdir()
    (results / ".sweeps" / "abc").write_text("r0\t[]\nr2\t[]\n")
    out = shown(capsys, results, "--sweep", "abc", "--show", "hit_rate")
    assert len(out.splitlines()) == 2 + 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--show", "hit_rat"], "hit_rat: is in no row of these 12; .* try hit_rate"),
        (["--show", "stall_s"], "stall_s: is null in every row of these 12"),
        (["--show", "policy"], "policy: holds 'lru'; expected a field of numbers"),
        (["--rows", "prefetch.dept", "--show", "hit_rate"], "prefetch.dept: is in no row"),
        (["--rows", "cache", "--show", "hit_rate"], "different runs of policy=lfu .*slots"),
        (["cache=arc", "--show", "hit_rate"], "policy=arc: no such row; the results have policy"),
        (["--sweep", "x"], "--sweep x: no such sweep in"),
    ],
)
def test_what_no_table_can_show_is_refused_in_a_line(results, words, line):
    with pytest.raises(ValueError, match=line) as refused:
        table.main([str(results), *words])
    assert "\n" not in str(refused.value)


def test_a_row_of_another_schema_is_left_out_and_named(results, capsys):
    path = results / "r0" / "result.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 9'))
    table.main([str(results), "--show", "mb_per_token"])
    assert "left out 1 of 12 results that are not of schema" in capsys.readouterr().err


def test_a_figure_of_ones_own_is_written_beside_the_rows(results, capsys):
    plot.main([str(results), "--x", "slots", "--y", "hit_rate", "--by", "cache"])
    paths = capsys.readouterr().out.split()
    assert paths[0].endswith("figures/hit_rate_by_slots.png")
    assert all((results / "figures" / name.rpartition("/")[2]).stat().st_size for name in paths)
    plot.main(
        [str(results), "--x", "cache", "--y", "hit_rate", "slots=2", "--out", f"{results}/a.pdf"]
    )
    assert (results / "a.pdf").is_file()


def test_a_figure_refuses_rows_that_differ_in_what_it_does_not_show(results):
    with pytest.raises(ValueError, match=r"different runs of slots=2 .*policy"):
        plot.main([str(results), "--x", "slots", "--y", "hit_rate"])


def test_the_commands_say_what_is_wrong_in_one_line(results, monkeypatch):
    import runpy

    monkeypatch.setattr(sys, "argv", ["analysis.table", str(results), "--show", "speed"])
    monkeypatch.delitem(sys.modules, "analysis.table")
    with pytest.raises(SystemExit, match=r"^analysis: speed: is in no row"):
        runpy.run_module("analysis.table", run_name="__main__")
