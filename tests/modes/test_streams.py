"""`mode=simulate` on a trace that does not fit in memory, on several files, and in shards."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

import moex
from moex.cli import app
from moex.cli.errors import CONF, register_resolvers
from moex.modes import shards
from moex.modes import simulate as simulate_mode
from moex.trace import files, record

ELSEWHERE = ("started", "run_id", "bottleneck", "replay", "interpreted_because")


@pytest.fixture(autouse=True)
def hydra_here(monkeypatch):
    register_resolvers()
    monkeypatch.chdir(CONF.parent)
    simulate_mode._opened.cache_clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def cold(tmp_path):
    """The bundled trace, which does not say whether caches start cold."""
    trace = moex.read_trace("tiny")
    trace.provenance.pop("cold")
    return moex.write_trace(trace, tmp_path / "cold.parquet")


def row(folder, *words):
    """The row of a run in a folder; empty if it leaves none."""
    folder.mkdir(exist_ok=True)
    given = ["mode=simulate", "tracker=none", "bottleneck=false"]
    given = [w for w in given if w.partition("=")[0] not in " ".join(words)] + [*words]
    config = compose("config", overrides=given, return_hydra_config=True)
    config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    del config._content["hydra"]
    app.run(config)
    if not (folder / "result.json").is_file():
        return {}
    found = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in ELSEWHERE}


def test_a_stream_gives_the_row_and_counts_of_the_whole(tmp_path, monkeypatch):
    whole = row(tmp_path / "whole", "bottleneck=true")
    monkeypatch.setattr(files, "IN_MEMORY", 0)
    simulate_mode._opened.cache_clear()
    stream = row(tmp_path / "stream", "bottleneck=true", "force=true")
    assert stream == whole
    told = json.loads((tmp_path / "stream" / "result.json").read_text())["bottleneck"]
    assert told.endswith("(of the first 10000 visits)")
    counts = [(tmp_path / each / "counts.json").read_text() for each in ("whole", "stream")]
    assert counts[0] == counts[1]
    smoke = row(tmp_path / "smoke", "smoke=true")
    assert smoke["tokens_decode"] == 32


def test_files_are_one_trace_by_list_and_by_pattern(tmp_path):
    trace = moex.read_trace("tiny")
    half = trace.sequence_starts()[1]
    for name, part in (("a", slice(0, half)), ("b", slice(half, None))):
        moex.write_trace(trace.select(part), tmp_path / f"part-{name}.parquet")
    whole = row(tmp_path / "whole")
    listed = f"trace=[{tmp_path}/part-a.parquet,{tmp_path}/part-b.parquet]"
    for number, words in enumerate((listed, f"trace='{tmp_path}/part-*.parquet'")):
        assert row(tmp_path / str(number), words) == whole


def test_shards_that_jobs_have_replayed_are_added_up(tmp_path, cold, monkeypatch):
    words = (f"trace={cold}", "workload.cold=true", "prefetch=gate", "prefetch.governor=off")
    whole = row(tmp_path / "whole", *words)
    assert whole.pop("shards") == 1
    alone = row(tmp_path / "alone", *words, "shards=3")
    assert alone.pop("shards") == 3
    assert alone == whole
    jobs = tmp_path / "jobs"
    for shard in range(3):
        assert not row(jobs, *words, "shards=3", f"shard={shard}")
    assert len(list((jobs / "shards").glob("*-of-3/totals.json"))) == 3
    with monkeypatch.context() as patch:
        patch.setattr("moex.sim.replay.replay_shard", None)  # nothing is left to replay
        found = row(jobs, *words, "shards=3")
    assert found.pop("shards") == 3
    assert found == whole
    assert not (jobs / "shards").exists()


def test_a_shard_of_another_geometry_is_refused(tmp_path, cold):
    words = (f"trace={cold}", "workload.cold=true", "shards=2")
    row(tmp_path / "jobs", *words, "shard=0")
    totals = shards.shard_folder(tmp_path / "jobs", 0, 2) / shards.TOTALS
    counted = json.loads(totals.read_text())
    counted["geometry"][0] = 7
    totals.write_text(json.dumps(counted))
    with pytest.raises(ValueError, match="shards: one is of the geometry"):
        row(tmp_path / "jobs", *words)


def test_a_live_run_that_is_recorded_in_parts_leaves_the_same_trace(tmp_path, monkeypatch):
    words = ("mode=live", "smoke=true", "prefetch=gate", "eval.tasks=[]")
    row(tmp_path / "whole", *words)
    monkeypatch.setattr(record, "PART", 7)
    left_over = tmp_path / "parts" / ".trace.killed.part"
    left_over.mkdir(parents=True)
    (left_over / "0.parquet").write_text("of a run that was killed")
    row(tmp_path / "parts", *words, "force=true")
    whole, parts = (moex.read_trace(tmp_path / x / "trace.parquet") for x in ("whole", "parts"))
    assert len(parts) == len(whole) > 14
    for name in ("experts", "offsets", "sequence", "position", "layer", "prefill", "tokens"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
    assert np.array_equal(parts.lookahead, whole.lookahead, equal_nan=True)
    assert parts.predictions == whole.predictions
    gc.collect()
    assert not list((tmp_path / "parts").glob(".*")), "temporary files are gone"
