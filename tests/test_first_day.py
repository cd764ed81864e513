"""Ten tasks of a newcomer, as the READMEs say them: every command is typed, and works at first."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.study

PREDICTOR = """
from dataclasses import dataclass

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction


@dataclass
class SameNext(Prefetcher):
    '''The next layer demands the same numbers as this one.'''

    def predict(self, observation):
        access, layer = observation.access, observation.access.layer + 1
        if layer == self.geometry.layers:
            return []
        return [Prediction(Expert(layer, expert), 1.0) for expert in access.experts]

    def reset(self, geometry, seed):
        self.geometry = geometry
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A newcomer's folder."""
    return tmp_path_factory.mktemp("desk")


def typed(desk: Path, line: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Type a line as the READMEs have it, in the folder."""
    python, script, *words = shlex.split(line)
    assert python == "python"
    script = str(ROOT / script) if script == "run.py" else script
    path = os.pathsep.join([str(ROOT), str(desk)])
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fails == bool(done.returncode), done.stderr
    return done


def row(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def test_1_a_policy_of_ones_own(desk):
    (source,) = re.findall(r"^```python\n(from .*?)^```$", README, re.MULTILINE | re.DOTALL)
    (settings,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (desk / "my_policies.py").write_text(source)
    (desk / "my_conf" / "cache").mkdir(parents=True)
    (desk / "my_conf" / "cache" / "least_often.yaml").write_text(settings)
    (command,) = re.findall(r"# .*: (python .*)", settings)
    assert row(typed(desk, command))["policy"] == "least_often"
    checked = "import my_policies, moex.testing as t; t.check_policy(my_policies.LeastOften)"
    typed(desk, f'python -c "{checked}"')


def test_2_a_predictor_of_ones_own(desk):
    (desk / "my_predictors.py").write_text(PREDICTOR)
    (desk / "my_conf" / "prefetch").mkdir(parents=True, exist_ok=True)
    yaml = "# Same numbers next.\n#   python run.py\n_target_: my_predictors.SameNext\n"
    (desk / "my_conf" / "prefetch" / "same_next.yaml").write_text(yaml)
    found = row(typed(desk, "python run.py --config-dir my_conf mode=simulate prefetch=same_next"))
    assert (found["prefetcher"], found["prefetch_issued"] > 0) == ("same_next", True)


def test_3_a_trace_of_ones_own_with_curves_and_a_forecast(desk):
    draw = np.random.default_rng(0)
    ids = [[draw.permutation(64)[:8] for _ in range(16)] for _ in range(40)]
    np.save(desk / "mine.npy", np.array(ids))
    told = typed(desk, "python -m moex.trace mine.npy --model olmoe --bits 4.5").stdout
    curves, forecast = re.findall(r": +(python run\.py .*)", told)
    typed(desk, curves)
    assert list(desk.glob("results/*/curve.json"))
    found = row(typed(desk, forecast))
    assert (found["prefetcher"], found["tokens_per_second"] > 0) == ("none", True)


GRID = "python run.py -m mode=simulate cache=lru,lfu memory.slots=2,4 prefetch=none"


def test_4_a_grid_to_latex(desk):
    (command,) = re.findall(r"(python -m analysis\.table .*) \(md", typed(desk, GRID).stderr)
    latex = typed(desk, command).stdout
    assert latex.count(r"\\") == 1 + 4
    wide = f"{command} --rows cache --cols slots --show hit_rate,mb_per_token"
    assert r"\multicolumn{2}{c}{mb\_per\_token}" in typed(desk, wide).stdout


def test_5_a_plan(desk):
    (command,) = re.findall(r"^(python run\.py mode=plan .*)$", README, re.MULTILINE)
    assert typed(desk, command).stderr.startswith("Fits: yes, mistralai/Mixtral-8x7B-v0.1")


def test_6_a_checkpoint_of_ones_own(desk, mixtral):
    found = row(typed(desk, f"python run.py model={mixtral} memory.slots=4 eval=none smoke=true"))
    assert (found["source"], found["model"]) == ("live", str(mixtral))


def test_7_two_methods_are_compared(desk):
    typed(desk, "python run.py -m mode=simulate prefetch=gate,none hardware=t4 memory.slots=2,3")
    told = typed(
        desk, "python -m analysis.compare prefetch=gate prefetch=none --metric bytes_moved"
    )
    assert len(re.findall(r"slots=[23].* = [\d.]+x", told.stdout)) == 2


def test_8_a_sweep_is_resumed(desk):
    longer = GRID.replace("2,4", "2,3,4")
    typed(desk, GRID)
    assert "4 of 4 cells were finished before" in typed(desk, GRID).stderr
    lines = typed(desk, longer).stdout.splitlines()
    assert len(lines) == 6


def test_9_a_key_is_found(desk):
    told = typed(desk, "python run.py slots=3 mode=simulate", fails=True).stderr
    assert told.endswith("; try memory.slots=3\n")
    shown = typed(desk, "python run.py memory --help").stdout
    assert re.search(r"^  memory\.slots .*resident experts per layer", shown, re.MULTILINE)


def test_10_the_first_run_is_explained(desk):
    told = typed(desk, "python run.py smoke=true").stderr
    assert "every metric: analysis/README.md#metrics" in told
    assert re.search(r"-limited at [\d.]+ tokens/s \(\d+% stall\)", told)
    page = (ROOT / "analysis/README.md").read_text()
    for metric in ("hit_rate", "effective_hit_rate", "all_hit_rate", "stall_share"):
        assert f"| `{metric}`" in page or f"`{metric}` |" in page
