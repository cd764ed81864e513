"""A finished run as a W&B run: offline without anybody's leave, and read by W&B's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from server import serving

from moex.cache.stats import CacheStats, by_layer
from moex.runs.report import Report
from moex.track.wandb import WandB
from moex.types import Geometry

ROOT = Path(__file__).parents[2]
GEOMETRY = Geometry(layers=2, experts=4, top_k=2, hidden=8, intermediate=8, expert_bytes=8)
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A user without an account, whose folders are looked at afterwards."""
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens


@pytest.fixture
def folder(tmp_path):
    """A results folder of two rounds of three passes, the second one reported."""
    folder = tmp_path / "0123456789"
    folder.mkdir()
    about = {"model": "tiny", "policy": "lru", "prefetcher": "gate", "slots": 4}
    row = Report(run_id=folder.name, mode="live", source="live", decode_s=0.5, hit_rate=0.75)
    row.fill(**about)
    row.tasks = [{"task": "moex_swap", "metric": "acc", "value": 0.9, "stderr": 0.1, "n": 8}]
    row.write(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "cache": {"_target_": "LRU"}}))
    lines = [
        {"round": number, "token": token, "phase": phase, "seconds": seconds, "stall_s": 0.1}
        for number, seconds in ((0, 9.0), (1, 0.25))
        for token, phase in enumerate(("prefill", "decode", "decode"))
    ]
    (folder / "series.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    layers = [json.dumps(line) + "\n" for line in by_layer([CacheStats(GEOMETRY)] * 2)]
    (folder / "layers.jsonl").write_text("".join(layers))
    (folder / "trace.parquet").write_bytes(b"a trace")
    (folder / "timeline.json").write_text("{}")
    return folder


def runs(folder):
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def test_wandb_sync_reads_what_was_written(folder, monkeypatch):
    WandB().publish(folder, "a study", fresh=True)
    (written,) = runs(folder)
    with serving() as server:
        env = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        command = [sys.executable, "-m", "wandb", "sync", str(written.parent)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    run = server.runs[0]
    named = (run["name"], run["project"], run["groupName"], run["jobType"])
    assert named == ("0123456789", "moex", "a study", "live")
    assert run["displayName"] == "tiny lru gate s4 seed0"
    config = json.loads(run["config"])
    assert config["cache"]["value"] == {"_target_": "LRU"}
    history = server.streamed["wandb-history.jsonl"]
    decode = [
        (line["token"], line["decode/seconds"]) for line in history if "decode/seconds" in line
    ]
    assert decode == [(1, 0.25), (2, 0.25)]
    summary = json.loads(server.files["wandb-summary.json"])
    row = json.loads((folder / "result.json").read_text())
    assert {name: summary[name] for name in ("run_id", "hit_rate", "decode_s")} == {
        name: row[name] for name in ("run_id", "hit_rate", "decode_s")
    }
    assert summary["accuracy/moex_swap"] == 0.9
    table = json.loads(server.files["layers.table.json"])
    assert table["columns"][:3] == ["layer", "visits", "requests"]
    assert [line[0] for line in table["data"]] == [0, 1]
    assert server.files["trace.parquet"] == b"a trace"
    assert server.files["timeline.json"] == b"{}"


def test_offline_asks_no_server_for_anything(folder):
    publish = f"""
from pathlib import Path
from moex.track.wandb import WandB
WandB().publish(Path({str(folder)!r}), None, fresh=True)
"""
    with serving() as server:
        env = {**os.environ, "WANDB_BASE_URL": server.url}
        env.pop("WANDB_MODE")
        done = subprocess.run([sys.executable, "-c", publish], cwd=ROOT, env=env, timeout=100)
        assert done.returncode == 0
        assert server.paths == []
    assert len(runs(folder)) == 1


def test_online_sends_at_once_and_once(folder, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        tracker = WandB(mode="online")
        tracker.publish(folder, None, fresh=True)
        assert server.files["trace.parquet"] == b"a trace"
        server.runs.clear()
        tracker.publish(folder, None, fresh=False)
        assert server.runs == []


def test_a_cell_of_a_wandb_sweep_belongs_to_it_whatever_its_mode(folder, monkeypatch):
    row = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**row, "mode": "simulate"}))
    WandB().publish(folder, None, fresh=True)
    assert runs(folder) == []
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    WandB().publish(folder, None, fresh=False)
    (written,) = runs(folder)
    assert written.name == "run-agents1.wandb"
    assert b"sweep1" in written.read_bytes()


def test_a_run_is_written_once(folder):
    WandB().publish(folder, None, fresh=True)
    WandB().publish(folder, None, fresh=False)
    assert len(runs(folder)) == 1


@pytest.mark.parametrize(
    ("key", "line"), [(None, "wandb login"), (KEY, "within 3 s")], ids=["no account", "no network"]
)
def test_what_cannot_be_sent_is_kept(folder, monkeypatch, key, line):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(RuntimeError, match=line):
        WandB(mode="online", send_s=3).publish(folder, None, fresh=True)
    assert len(runs(folder)) == 1
    assert not list(folder.glob("wandb/*/sent"))  # so that it is tried again


def test_disabled_writes_nothing(folder):
    WandB(mode="disabled").publish(folder, None, fresh=True)
    assert not (folder / "wandb").exists()


def test_an_unknown_mode_gets_one_line():
    with pytest.raises(ValueError, match=r"tracker.mode=on: expected one of offline, online"):
        WandB(mode="on")


@pytest.mark.study
def test_the_command_of_the_shipped_sweep_runs(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "experiments" / "sweep.yaml").read_text())
    first = {
        name: {"value": given["value"] if "value" in given else given["values"][0]}
        for name, given in sweep["parameters"].items()
    }
    words = create_sweep_command_args({"args": first})["args_no_hyphens"]
    macros = {"${env}": ["/usr/bin/env"], "${program}": [sweep["program"]]}
    macros["${args_no_hyphens}"] = words
    command = create_sweep_command(list(sweep["command"]))
    line = [word for part in command for word in macros.get(part, [part])]
    assert line[1] == "python"
    line = [sys.executable, *line[2:], f"hydra.run.dir={tmp_path}/${{run_id:}}"]
    line[line.index("tracker.mode=online")] = "tracker.mode=offline"
    env = {**os.environ, "WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row[sweep["metric"]["name"]] > 0
    assert (row["policy"], row["prefetcher"], row["slots"]) == ("lru", "none", 2)
    assert [path.name for path in runs(tmp_path / row["run_id"])] == ["run-agents1.wandb"]
