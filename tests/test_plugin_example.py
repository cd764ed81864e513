"""A plug-in outside moex is found by checkers, commands, sweeps and figures; nothing is edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

from plugin_example.heaviest import Heaviest
from plugin_example.twice import Twice

from analysis import collect
from analysis.catalogue import FIGURES
from analysis.style import policy_style, styled
from moex.testing import check_policy, check_prefetcher

ROOT = Path(__file__).parents[1]
CONF = ROOT / "tests/plugin_example/conf"


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", "--config-dir", str(CONF), "mode=simulate", "smoke=true"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    return subprocess.run(
        [*command, "bottleneck=false", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment, check=False,
    )  # fmt: skip


def test_the_plug_ins_keep_the_contracts():
    check_policy(Heaviest)
    check_prefetcher(Twice)


def test_the_command_line_finds_it(tmp_path):
    done = start("cache=heaviest", "prefetch=twice", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["policy"], row["prefetcher"]) == ("heaviest", "twice")


def test_a_study_of_all_policies_and_its_figures_find_it(tmp_path):
    words = ("experiment=policy_zoo", "memory.slots=3", "memory.pool=layer")
    done = start(*words, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings(action="ignore"):
        table = collect(tmp_path)
    ours = {path.stem for path in (ROOT / "conf/cache").glob("*.yaml")}
    assert set(table["policy"]) == ours | {"heaviest"}
    entry = FIGURES["policy_zoo"]
    with styled():
        figure = entry.draw(entry.rows(table))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert "heaviest" in labels
    assert policy_style("heaviest")["marker"]
