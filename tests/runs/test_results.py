"""What a run leaves: whole files and a row, or one clear line; nothing torn, nothing open."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from records import handles

from moex.bench.rounds import generate
from moex.cli import app
from moex.cli.errors import one_line, register_resolvers
from moex.modes.common import PARTIAL
from moex.runner.meter import Meter
from moex.runs import atomic
from moex.runs.run_id import run_id

ROOT = Path(__file__).parents[2]
WRITTEN = (
    *("series.jsonl", "layers.jsonl", "timeline.json", "trace.parquet"),
    *("counts.json", "config.yaml"),
)


@pytest.fixture
def configured(mixtral, tmp_path):
    """A small live run, composed; and the folder where its result belongs."""
    register_resolvers()
    words = ["model=hf", f"model.name={mixtral}", "memory.slots=3", "eval=none"]
    words += ["workload.new_tokens=4", "workload.warmup=0", "workload.repeats=2"]
    words += ["workload.prompts=[one two, three]"]
    words += [f"hydra.run.dir={tmp_path}/${{run_id:}}", "hydra.job.name=run"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=words, return_hydra_config=True)
    folder = Path(config.hydra.run.dir)
    folder.mkdir()
    config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    del config._content["hydra"]
    yield config, folder
    HydraConfig.instance().cfg = None


def names(folder):
    return {path.name for path in folder.glob("*")}


def test_a_run_leaves_all_of_its_files_and_nothing_else(configured, capsys):
    config, folder = configured
    app.run(config)
    assert names(folder) == {*WRITTEN, "result.json"}
    row = json.loads((folder / "result.json").read_text())
    assert row["run_id"] == folder.name
    layers = [json.loads(line) for line in (folder / "layers.jsonl").open()]
    for name in ("requests", "resident_hits", "prefetch_hits", "late_hits", "demand_misses"):
        assert sum(line[name] for line in layers) == row[name]
    app.run(config)
    assert "finished before" in capsys.readouterr().err


@pytest.mark.study
@pytest.mark.parametrize(
    ("where", "code"),
    [*((name, errno.ENOSPC) for name in (*WRITTEN, "result.json")), ("trace.parquet", errno.EROFS)],
)
def test_a_file_that_cannot_be_written_leaves_no_result_and_nothing_torn(
    configured, monkeypatch, where, code
):
    config, folder = configured
    replace, threads, open_files = os.replace, threading.active_count(), handles()

    def refuse(source, target):
        if Path(target).name == where:
            raise OSError(code, os.strerror(code))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", refuse)
    with pytest.raises(OSError, match=r"No space|Read-only") as caught:
        app.run(config)
    line = one_line(caught.value)
    assert line.startswith(f"{folder / where}: {os.strerror(code).lower()}; ")
    assert "\n" not in line
    assert names(folder) <= set(WRITTEN) - {where}
    assert threading.active_count() == threads
    assert handles() <= open_files


@pytest.mark.parametrize("words", [["hydra.run.dir=run.py/x"], ["-m", "hydra.sweep.dir=run.py/x"]])
def test_a_results_folder_that_cannot_be_gets_one_line(words):
    command = [sys.executable, "run.py", *words, "mode=simulate"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"moex: {words[-1]}: not a directory; expected a path that")
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_real_full_disk_gets_one_line(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        command = [sys.executable, "run.py", f"hydra.run.dir={small}/${{run_id:}}"]
        command += ["mode=simulate", "bottleneck=false"]
        (small / "filler").write_bytes(b"0" * 12_000)
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 1
        assert ": no space left on device; make room" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert {path.name for path in small.glob("*/*")} <= {"counts.json", "config.yaml"}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_stopped_run_keeps_what_it_measured_and_is_run_anew(configured, monkeypatch, capsys):
    config, folder = configured
    rounds: list[int] = []

    def interrupted(*given):
        rounds.append(1)
        if len(rounds) == 2:
            (meter,) = (part for part in given if isinstance(part, Meter))
            meter.measure = _stopping(meter.measure, after=3)
        return generate(*given)

    monkeypatch.setattr("moex.bench.rounds.generate", interrupted)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        app.run(config)
    assert names(folder) == {PARTIAL}
    lines = [json.loads(line)["round"] for line in (folder / PARTIAL).open()]
    assert (lines.count(0), lines.count(1)) == (2 * 4, 3)
    assert threading.active_count() == threads
    monkeypatch.undo()
    app.run(config)
    assert "stopped before" in capsys.readouterr().err
    assert names(folder) == {*WRITTEN, "result.json"}


def _stopping(measure, after):
    left = [after]

    def stopping(*given, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(*given, **more)

    return stopping


def test_what_is_run_again_keeps_the_row_before(configured):
    config, folder = configured
    app.run(config)
    row = (folder / "result.json").read_text()
    config.force = True
    app.run(config)
    assert (folder / "result.previous.json").read_text() == row


def test_a_bottleneck_asked_for_later_is_added_to_what_was_measured(configured, capsys):
    config, folder = configured
    config.bottleneck = False
    app.run(config)
    before = json.loads((folder / "result.json").read_text())
    config.bottleneck = True
    for line in ("without a bottleneck line: added from its trace", "finished before; force=true"):
        app.run(config)
        assert line in capsys.readouterr().err
    after = json.loads((folder / "result.json").read_text())
    assert "-limited at" in after["bottleneck"]
    assert {**after, "bottleneck": None} == before
    assert names(folder) == {*WRITTEN, "result.json"}


def test_a_damaged_row_is_made_again(configured, capsys):
    config, folder = configured
    app.run(config)
    (folder / "result.json").write_text('{"schema": 1, "code"')
    app.run(config)
    assert "is damaged" in capsys.readouterr().err
    assert json.loads((folder / "result.json").read_text())["run_id"] == folder.name


def test_what_a_killed_run_left_is_swept_away(configured):
    config, folder = configured
    (folder / ".trace.parquet.123.part").write_bytes(b"half a tra")
    app.run(config)
    assert names(folder) == {*WRITTEN, "result.json"}


def test_a_live_run_leaves_a_wandb_folder(configured, monkeypatch, capsys):
    config, folder = configured
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    config.tracker.mode = "offline"
    app.run(config)
    assert names(folder) == {*WRITTEN, "result.json", "wandb"}
    assert len(list(folder.glob("wandb/offline-run-*/run-*.wandb"))) == 1
    assert "not tracked" not in capsys.readouterr().err


def test_a_tracker_is_no_part_of_what_a_run_is(configured):
    config, folder = configured
    config.tracker = {"_target_": "moex.track.none.NoTracker"}
    assert run_id(OmegaConf.to_container(config, resolve=True)) == folder.name


def test_a_failing_tracker_costs_a_line_and_no_run(configured, monkeypatch, capsys):
    config, folder = configured
    config.tracker.mode = "offline"

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device", f"{folder}/wandb")

    monkeypatch.setattr("moex.track.wandb.WandB._write", refuse)
    app.run(config)
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["run_id"] == folder.name
    (line,) = [line for line in err.splitlines() if line.startswith("moex: not tracked")]
    assert "no space left on device" in line
    assert (folder / "result.json").is_file()
