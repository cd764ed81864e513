"""From results to tables, figures and comparisons."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from PIL import Image
from studies import run_tiny

from analysis import collect
from analysis.__main__ import draw
from analysis.catalogue import FIGURES, SIMULATED
from analysis.cells import cells
from analysis.collect import need
from analysis.publish import ALSO, BLOCK, publish
from analysis.style import NAMES, ORACLES, policy_style
from moex.runs.report import Report

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Rows of some cells of every simulated study."""
    folder = tmp_path_factory.mktemp("studies")
    for name in SIMULATED:
        run_tiny(name, folder / "results", most=8)
    return folder / "results"


def write(folder: Path, run: str, config: dict | None = None, **fields: object) -> None:
    row = Report(run_id=run, source="live", mode="live", **fields)  # type: ignore[arg-type]
    (folder / run).mkdir()
    (folder / run / "config.yaml").write_text(yaml.safe_dump(config or {}))
    row.write(folder / run)


def test_an_empty_folder_names_the_command_that_helps(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python run\.py experiment=policy_zoo"):
        collect(tmp_path)


def test_a_table_has_the_fields_of_the_row_and_the_leaves_of_the_configuration(tmp_path):
    write(tmp_path, "a", {"memory": {"staging": 5}, "trace": "tiny"}, slots=4)
    table = collect(tmp_path)
    assert set(Report().__dict__) <= set(table.columns)
    assert table.loc[0, ["slots", "memory.staging", "trace"]].tolist() == [4, 5, "tiny"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"git": "abc"}, {"git": "def"}, "2 commits"),
        ({"code": "abc"}, {"code": "def"}, "versions of moex"),
        ({"machine": "x"}, {"machine": "y"}, "2 machines"),
        ({"dirty": True}, {}, "not committed"),
        ({"smoke": True}, {}, "smoke=true"),
        ({"drift": 0.5}, {"drift": 0.0}, "drifted"),
    ],
)
def test_rows_that_do_not_belong_together_are_warned_of(tmp_path, first, second, words):
    write(tmp_path, "a", **first)
    write(tmp_path, "b", **second)
    with pytest.warns(UserWarning, match=words):
        collect(tmp_path)


def test_a_row_of_schema_1_is_read_under_its_new_names(tmp_path):
    write(tmp_path, "a", bottleneck="the link")
    path = tmp_path / "a" / "result.json"
    row = json.loads(path.read_text())
    row |= {"schema": 1, "verdict": row.pop("bottleneck"), "substituted": 0}
    path.write_text(json.dumps(row))
    (found,) = collect(tmp_path).to_dict("records")
    assert (found["bottleneck"], found["schema"]) == ("the link", 2)
    assert not {"verdict", "substituted"} & found.keys()


def test_a_row_of_another_schema_is_left_out_and_said(tmp_path):
    write(tmp_path, "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text(json.dumps({"schema": 0, "run_id": "b"}))
    with pytest.warns(UserWarning, match="left out 1 of 2 results"):
        assert len(collect(tmp_path)) == 1


def test_a_missing_column_names_the_command(tmp_path):
    write(tmp_path, "a")
    with pytest.raises(ValueError, match=r"no hit_rate in any of its 1 rows.*experiment=x"):
        need(collect(tmp_path), ["hit_rate"], "python run.py experiment=x")


def test_no_two_policies_look_alike_and_looks_never_change():
    looks = [(policy_style(n)["color"], policy_style(n)["marker"]) for n in NAMES]
    assert len(set(looks)) == len(NAMES)
    foreign = policy_style("somebody_s_policy")
    assert foreign == policy_style("somebody_s_policy")
    assert (foreign["color"], foreign["marker"]) not in looks
    assert all(policy_style(name)["color"] == "0.45" for name in ORACLES)


def test_every_policy_of_moex_has_a_look_of_its_own():
    ours = {path.stem for path in (ROOT / "conf/cache").glob("*.yaml")} - set(ORACLES)
    looks = {(policy_style(name)["color"], policy_style(name)["marker"]) for name in ours}
    assert len(looks) == len(ours), "two look alike: append the newer to analysis.style.NAMES"


@pytest.mark.study
def test_every_simulated_figure_is_drawn_with_a_caption(studies, tmp_path, capsys):
    with warnings.catch_warnings(action="ignore"):
        table = collect(studies)
    paths, failed = draw(table, tmp_path)
    assert not failed
    drawn = {path.stem for path in paths}
    assert drawn == {name for name, entry in FIGURES.items() if entry.study in SIMULATED}
    assert {path.suffix for path in paths} == {".png", ".pdf"}
    assert "experiment=tab2_live" in capsys.readouterr().err
    for path in paths:
        if path.suffix == ".png":
            text = Image.open(path).text["Description"]  # type: ignore[attr-defined]
            assert "Model " in text
            assert "SMOKE TEST" in text
            assert "commit" in text


@pytest.mark.study
def test_publishing_renews_tables_and_pictures_but_not_with_smoke_tests(studies, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        table = collect(studies)
    readme = tmp_path / "studies" / "buffers" / "README.md"
    readme.parent.mkdir(parents=True)
    blocks = "".join(
        f"<!-- table {name} -->\nold\n<!-- end -->\n" for name in ("buffers", "pareto")
    )
    readme.write_text(f"before\n{blocks}after\n")
    said: list[str] = []
    assert not publish(table, tmp_path, said.append)
    assert "not published" in said[0]
    written = publish(table.assign(smoke=False), tmp_path)
    assert {path.name for path in written} == {"buffers.png", "README.md"}
    text = readme.read_text()
    assert text.startswith("before\n<!-- table buffers -->\n| tokens/s, staging slots |")
    assert "commit" in text
    assert text.endswith("<!-- table pareto -->\nold\n<!-- end -->\nafter\n"), "no rows, no change"
    assert not publish(table.assign(smoke=False), tmp_path)[1:], "the same rows, the same text"
    worse = table.assign(smoke=False, tokens_per_second=None)
    assert not publish(worse, tmp_path, said.append)
    assert "buffers not published: table: no tokens_per_second" in said[1]


@pytest.mark.study
def test_a_table_of_fewer_rows_is_published_only_by_force(studies, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        table = collect(studies).assign(smoke=False)
    readme = tmp_path / "studies" / "buffers" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("<!-- table buffers -->\nold\n<!-- end -->\n")
    publish(table, tmp_path)
    text, said = readme.read_text(), []
    rows = FIGURES["buffers"].rows(table)
    assert not publish(rows[:1], tmp_path, said.append)
    assert re.search(r"found \d+ \w+ of the table, the published one has \d+: .*--force", said[0])
    assert readme.read_text() == text
    assert readme in publish(rows[:1], tmp_path, said.append, force=True)
    assert readme.read_text() != text


def test_every_table_of_the_write_ups_is_one_that_can_be_made():
    for readme in (ROOT / "experiments").glob("*/*/README.md"):
        text = readme.read_text()
        assert text.count("<!-- table ") == len(BLOCK.findall(text)) == text.count("<!-- end -->")
        for _, name, _ in BLOCK.findall(text):
            assert name in ALSO or FIGURES[name].table, f"{readme}: {name}"


def test_a_figure_that_cannot_be_drawn_does_not_stop_the_others(tmp_path, capsys):
    rows = {"policy": "lru", "prefetcher": "none", "hit_rate": 0.5, "slots": 4, "pool": "layer"}
    for run, rate in (("a", 0.5), ("b", 0.6)):
        write(tmp_path, run, {"memory": {"staging": run}}, **rows | {"hit_rate": rate})
    table = collect(tmp_path).assign(source="sim", layer_hit_rates=[[0.5, 0.6]] * 2)
    paths, failed = draw(table, tmp_path)
    assert failed
    assert "differ in memory.staging" in capsys.readouterr().err
    assert {path.stem for path in paths} == {"fig2a_hits_by_layer"}


def test_every_figure_s_study_is_a_preset():
    presets = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert {entry.study for entry in FIGURES.values()} | set(SIMULATED) <= presets


def test_repeats_make_an_interval_and_a_missing_key_is_named(tmp_path):
    for seed, speed in enumerate((10.0, 12.0, 11.0)):
        write(tmp_path, f"a{seed}", policy="lru", seed=seed, tokens_per_second=speed)
    table = collect(tmp_path)
    line = cells(table, ["policy"], "tokens_per_second").iloc[0]
    assert (line["middle"], line["n"]) == (11.0, 3)
    assert line["low"] == pytest.approx(11 - 4.303 / 3**0.5, abs=1e-3)
    write(tmp_path, "b", {"memory": {"staging": 9}}, policy="lru", seed=0, tokens_per_second=1.0)
    with pytest.raises(ValueError, match=r"2 different runs of policy=lru .* memory\.staging"):
        cells(collect(tmp_path), ["policy"], "tokens_per_second")


@pytest.mark.parametrize("module", ["analysis", "analysis.compare"])
def test_a_command_says_in_one_line_what_is_missing(module, tmp_path):
    words = ["prefetch=gate", "prefetch=none", "--results"] if module.endswith("compare") else []
    command = [sys.executable, "-m", module, *words, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no results there" in done.stderr
    assert done.stderr.count("\n") == 1
