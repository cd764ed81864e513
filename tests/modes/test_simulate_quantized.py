"""mode=simulate with quant: bytes of an expert as the quantization packs it."""

from __future__ import annotations

import json

import pytest
from test_plan import run

from moex.quant.rtn import RTN
from moex.runner.assemble import load_model

QUIET = ("tracker=none", "bottleneck=false")
LIVE = ("smoke=true", "sparsity=random", "prefetch=none", "eval=none", *QUIET)


def row(*overrides, folder) -> dict:
    done = run(*overrides, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.study
def test_an_exact_trace_is_billed_in_few_bits(tmp_path):
    plain = row("mode=simulate", "trace=tiny", "smoke=true", *QUIET, folder=tmp_path)
    words = ("mode=simulate", "trace=tiny", "smoke=true", "quant=rtn_4bit", "hardware=toy", *QUIET)
    packed = row(*words, folder=tmp_path)
    loaded = load_model("tiny", quant=RTN(4, 64), cache_dir=tmp_path)
    nbytes = loaded.geometry.expert_bytes
    assert packed["bytes_demand"] == packed["demand_misses"] * nbytes
    assert packed["demand_misses"] == plain["demand_misses"]
    assert packed["capacity_bytes"] == plain["capacity_bytes"] * nbytes // (3 * 256 * 384 * 2)
    assert packed["bits_per_weight"] == loaded.bits_per_weight
    assert (packed["lossy"], packed["replayed_routing"]) == (["quant"], True)
    assert (packed["kernel"], plain["lossy"]) == ("not modelled", [])
    words = ("mode=simulate", "trace=tiny", "smoke=true", "quant=mixed", *QUIET)
    kept = [f"quant.{kind}=null" for kind in ("gate_up", "down", "attention")]
    alike = row(*words, *kept, folder=tmp_path)
    assert (alike["lossy"], alike["replayed_routing"]) == ([], False)


@pytest.mark.study
def test_any_scale_group_costs_the_bits_that_it_says(tmp_path):
    words = ("mode=simulate", "trace=tiny", "smoke=true", "quant=rtn_4bit", *QUIET)
    usual = row(*words, folder=tmp_path)["bits_per_weight"]
    odd = row(*words, "quant.scale_group=255", folder=tmp_path)["bits_per_weight"]
    assert usual <= odd < usual + 0.01
    refused = run(*words, "quant.scale_group=0", folder=tmp_path)
    assert refused.returncode != 0
    typed = refused.stderr.rpartition("try ")[2].split()[0]
    assert row(*words, typed, folder=tmp_path)["bits_per_weight"] == usual


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    return folder, row(*LIVE, "quant=rtn_4bit", folder=folder)


@pytest.mark.study
def test_a_quantized_trace_is_replayed_as_it_was(live):
    folder, found = live
    assert (found["kernel"], found["lossy"]) == ("rows", ["sparsity", "quant"])
    words = ("mode=simulate", f"trace=results/{found['run_id']}/trace.parquet", *LIVE[1:])
    again = row(*words, "quant=rtn_4bit", folder=folder)
    for name in ("bytes_demand", "bytes_selected", "demand_misses", "bits_per_weight"):
        assert again[name] == found[name], name
    assert not again["replayed_routing"]
    refused = run(*words, "quant=rtn_2bit", folder=folder)
    assert refused.returncode != 0
    assert "quant: the trace was recorded with" in refused.stderr
