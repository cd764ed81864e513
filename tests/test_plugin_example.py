"""A plug-in outside moex is found by checkers, commands, sweeps and figures; nothing is edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from plugin_example.frequent import Frequent
from plugin_example.heaviest import Heaviest
from plugin_example.nearest import Nearest
from plugin_example.twice import Twice
from safetensors.torch import load_file

import moex
from analysis import collect
from analysis.catalogue import FIGURES
from analysis.style import policy_style, styled
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.quant.rtn import RTN
from moex.runner.assemble import load_model
from moex.testing import check_policy, check_prefetcher, check_quantizer, check_routing
from moex.types import PREFILL

if TYPE_CHECKING:
    from moex.prefetch.base import Prefetcher

ROOT = Path(__file__).parents[1]
CONF = ROOT / "tests/plugin_example/conf"


TOKENS = torch.arange(40, 72)[None]
COUNTING, SQUEEZED = "plugin_example.counting.Counting", "plugin_example.squeezed.Squeezed"
BYTEWISE = "plugin_example.bytewise.Bytewise"


def start(*words: str, mode: str = "simulate") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", "--config-dir", str(CONF), f"mode={mode}", "smoke=true"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    return subprocess.run(
        [*command, "bottleneck=false", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment, check=False,
    )  # fmt: skip


def test_the_plug_ins_keep_the_contracts():
    check_policy(Heaviest)
    check_prefetcher(Twice)
    check_routing(Nearest)


def test_the_command_line_finds_it(tmp_path):
    done = start("cache=heaviest", "prefetch=twice", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["policy"], row["prefetcher"]) == ("heaviest", "twice")


@pytest.mark.study
def test_a_study_of_all_policies_and_its_figures_find_it(tmp_path):
    words = ("experiment=policy_zoo", "memory.slots=3", "memory.pool=layer")
    done = start(*words, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    with warnings.catch_warnings(action="ignore"):
        table = collect(tmp_path)
    ours = {path.stem for path in (ROOT / "conf/cache").glob("*.yaml")} - {"forecast"}
    assert set(table["policy"]) == ours | {"heaviest"}
    entry = FIGURES["policy_zoo"]
    with styled():
        figure = entry.draw(entry.rows(table))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert "heaviest" in labels
    assert policy_style("heaviest")["marker"]


def row(folder: Path, *words: str, mode: str) -> dict:
    """The row of a run of the bundled model."""
    common = ("eval=none", "tracker=none", f"cache_dir={folder}", f"hydra.run.dir={folder / mode}")
    done = start(*common, *words, mode=mode)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def logits(prefetch: Prefetcher | None = None, **settings) -> torch.Tensor:
    with moex.load("tiny", slots=4, prefetch=prefetch, **settings) as model, torch.no_grad():
        return torch.stack([model(TOKENS).logits, model(TOKENS + 1).logits])


@pytest.mark.study
def test_a_link_moves_every_byte_and_no_logit_changes(tmp_path):
    found = row(tmp_path, "memory=counting", mode="verify")
    assert (found["link"], found["equality"]) == ("counting", "bit-equal")
    offloaded = moex.load("tiny", slots=4, prefetch=Gate(), link=COUNTING, cache_dir=tmp_path)
    with offloaded as model, torch.no_grad():
        ours, moved = model(TOKENS).logits, offloaded.link.bytes
    counts = offloaded.cache_stats.phases[PREFILL]
    assert (moved["demand"], moved["prefetch"]) == (counts.bytes_demand, counts.bytes_prefetch)
    assert torch.equal(ours, logits(store="ram", link="copy")[0])
    with pytest.raises(ValueError, match=r"^memory.link=plugin.*hardware=slow.*memory.link=auto$"):
        moex.load("tiny", link=COUNTING, hardware=HardwareProfile("slow", link_bytes_per_s=1e6))


@pytest.mark.study
def test_a_store_gives_back_every_bit(tmp_path):
    found = row(tmp_path, "memory=squeezed", mode="verify")
    assert (found["store"], found["link"], found["equality"]) == ("squeezed", "copy", "bit-equal")
    for quant in (None, RTN(4, 64)):
        ours, theirs = (
            logits(store=store, quant=quant, cache_dir=tmp_path) for store in (SQUEEZED, "ram")
        )
        assert torch.equal(ours, theirs)
    loaded = load_model("tiny", store=SQUEEZED)
    size = sum(map(len, loaded.store.records.values()))
    assert 0 < size < loaded.geometry.all_bytes


@pytest.mark.study
def test_a_routing_policy_is_measured_live_and_its_trace_replayed(tmp_path):
    words = ("routing=nearest", "memory.slots=2", "prefetch=none")
    found = row(tmp_path, *words, mode="live")
    assert (found["routing"], found["lossy"]) == ("nearest", ["routing"])
    assert found["residency_dependent"]
    assert found["swap_rate"] > 0
    words += (f"trace={tmp_path / 'live' / 'trace.parquet'}",)
    again = row(tmp_path, *words, mode="simulate")
    assert not again["off_policy"]
    counts = ("requests", "demand_misses", "swap_rate")
    assert [again[name] for name in counts] == [found[name] for name in counts]
    assert len((ROOT / "tests/plugin_example/nearest.py").read_text().splitlines()) <= 25


@pytest.mark.study
def test_a_kernel_computes_what_the_reference_does(tmp_path):
    check_quantizer(lambda: RTN(4, 64, kernel=BYTEWISE))
    ours, theirs = (
        logits(quant=RTN(4, 64, kernel=kernel), cache_dir=tmp_path)
        for kernel in (BYTEWISE, "reference")
    )
    assert torch.equal(ours, theirs)
    found = row(tmp_path, "quant=bytewise", mode="live")
    assert (found["kernel"], found["quant"]) == ("bytewise", "bytewise")
    assert found["bits_per_weight"] > 8


@pytest.mark.study
def test_a_predictor_is_trained_and_then_found(tmp_path):
    text, out = tmp_path / "text", tmp_path / "frequent.safetensors"
    text.mkdir()
    for number in range(80):
        words = [f"{(number * 37 + word * word) % 89} sails" for word in range(300)]
        (text / f"{number}.txt").write_text(" ".join(words))
    row(tmp_path, "prefetch=frequent", f"train.text={text}", f"train.out={out}", mode="train")
    words = ("prefetch=frequent", f"prefetch.checkpoint={out}")
    found = row(tmp_path, *words, mode="live")
    assert found["prefetcher"] == "frequent"
    assert found["prefetch_issued"] > 0
    shares = load_file(out)
    assert all(float(each.sum()) == pytest.approx(2, abs=0.01) for each in shares.values())
    prefetcher = Frequent(checkpoint=str(out))
    assert torch.equal(logits(prefetcher, cache_dir=tmp_path), logits(cache_dir=tmp_path))
    assert prefetcher.counts == [shares[str(layer)].tolist() for layer in range(len(shares))]
