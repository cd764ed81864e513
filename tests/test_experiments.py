"""Every preset of conf/experiment runs in its tiny form, and is written up."""

from __future__ import annotations

import json

import pytest
from studies import CONF, PRESETS, ROOT, run_tiny

pytestmark = pytest.mark.study


@pytest.mark.parametrize("name", PRESETS)
def test_the_tiny_form_of_a_preset_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = run_tiny(name, tmp_path / "results")
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("results/*/result.json")]
    assert len(rows) == cells, "two cells are the same run"
    assert all(row["smoke"] for row in rows)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_is_and_is_written_up(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"python run.py experiment={name}" in text
    told = [
        path.parent.name
        for path in (ROOT / "experiments").glob("*/*/README.md")
        if f"experiment={name}" in path.read_text()
    ]
    assert told, f"no experiments/*/*/README.md names experiment={name}"
