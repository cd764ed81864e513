"""The same sweep in one process, in several, as cluster jobs and on a Ray cluster: same rows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import slurm
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

import moex

ROOT = Path(__file__).parents[2]
SWEEP = ("-m", "mode=simulate", "bottleneck=false", "smoke=true", "prefetch=none")
CELLS = ("cache=lru,lfu", "memory.slots=2,4")
ELSEWHERE = ("started", "machine", "git", "dirty", "replay", "interpreted_because")


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", *SWEEP, f"hydra.sweep.dir={folder}", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ,
        check=False,
        start_new_session=True,
    )


def rows(folder: Path) -> dict[str, dict]:
    found = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")
    }
    return {
        name: {key: value for key, value in row.items() if key not in ELSEWHERE}
        for name, row in found.items()
    }


DEADLY = """
import os, signal, threading, time
from pathlib import Path
from moex.cache.lru import LRU

class Deadly(LRU):
    def reset(self, scope):
        while not list(Path(os.environ["SWEPT"]).glob("*/result.json")):
            time.sleep(0.05)
        self.end()

class Killed(Deadly):
    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Stopped(Deadly):
    def end(self):
        os.killpg(0, signal.SIGINT)
        time.sleep(60)

class Unsendable(Deadly):
    def end(self):
        raise ValueError("no hope", threading.Lock())
"""


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Sweeps whose second cell ends badly, once the first has ended well."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SWEPT", str(tmp_path / "swept"))

    def run(end: str) -> subprocess.CompletedProcess[str]:
        targets = f"cache._target_=moex.cache.lru.LRU,deadly.{end}"
        return sweep(
            tmp_path / "swept", targets, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
        )

    return run


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    done = sweep(folder, *CELLS)
    assert done.returncode == 0, done.stderr
    assert len(rows(folder)) == 4
    return rows(folder)


@pytest.mark.parametrize(
    "words",
    [
        ["cache=lfu", "memory.slots=3", "+cache.extra={a: 1}", "seed=5"],
        ["seed=2", "~workload.prompts", "hydra.job.chdir=true", "prefetch=corm", "memory.rows=0.5"],
        ["experiment=policy_zoo", "trace='a, b'", "memory.slots=${seed}"],
    ],
)
def test_cells_are_composed_as_hydra_composes_them(words, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "moex" / "sweeps")
    from hydra_plugins.moex._composing import Composer

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="test"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["seed=0"], RunMode.MULTIRUN)
        quick = Composer(loader)
        for cell in (words, [*words, "seed=7"], words):
            found = quick.load_sweep_config(master, list(cell))
            expected = loader.load_sweep_config(master, list(cell))
            assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
            assert OmegaConf.is_struct(found)
        assert len(quick.composed) == 1


def test_a_word_that_is_none_stops_a_sweep_before_its_first_cell(tmp_path):
    done = sweep(tmp_path, "cache=lru,lur", "memory.slots=2,4")
    assert done.returncode == 1
    assert "cache=lur: there is no such option" in done.stderr
    assert not list(tmp_path.glob("*/result.json"))


def test_a_sweep_of_refused_cells_leaves_nothing(tmp_path):
    done = sweep(tmp_path, "memory.slots=9,99")
    assert "2 of 2 cells of the sweep failed" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@needs("joblib")
def test_joblib_gives_the_same_rows(serial, tmp_path):
    done = sweep(tmp_path, *CELLS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == serial


@needs("joblib")
def test_no_process_is_refused(tmp_path):
    done = sweep(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert done.stderr.startswith("moex: hydra.launcher.n_jobs=0: expected a number of processes")
    assert done.stderr.count("\n") == 1


@pytest.mark.study
@needs("joblib")
def test_a_bad_cell_in_another_process_is_counted_and_named(tmp_path):
    done = sweep(tmp_path, "memory.slots=9,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 1
    assert "prefetch=none memory.slots=9: memory.slots=9: expected 0" in done.stderr
    assert "1 of 2 cells of the sweep failed" in done.stderr.splitlines()[-1]
    assert len(rows(tmp_path)) == 1


@pytest.mark.study
@needs("joblib")
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("Killed", "a process of the sweep was killed, most likely because memory ran out"),
        ("Stopped", "moex: stopped; type the command again"),
        ("Unsendable", "1 of 2 cells of the sweep failed"),
    ],
)
def test_a_sweep_that_ends_badly_says_so_in_a_line_and_keeps_what_finished(
    deadly, tmp_path, end, told
):
    done = deadly(end)
    assert done.returncode != 0
    assert told in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
    assert len(rows(tmp_path / "swept")) == 1


@pytest.mark.study
@needs("submitit")
def test_submitit_s_local_executor_gives_the_same_rows(serial, tmp_path):
    done = sweep(tmp_path, *CELLS, "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == serial


@pytest.mark.study
@needs("submitit")
def test_slurm_s_launcher_gives_the_same_rows_on_this_machine(serial, tmp_path):
    words = ("hydra/launcher=slurm", "hydra.launcher.cluster=local")
    done = sweep(tmp_path, *CELLS, *words)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == serial


@needs("submitit")
@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="Slurm is installed")
def test_without_slurm_the_launcher_says_so_in_a_line(tmp_path):
    done = sweep(tmp_path, "memory.slots=2,4", "hydra/launcher=slurm")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "hydra/launcher=slurm: " in done.stderr
    assert "hydra.launcher.cluster=local" in done.stderr


def sharded(folder: Path, *launcher: str) -> str:
    """Run cells whole and in shards by a launcher; the rows must be the same. Return stderr."""
    folder.mkdir(exist_ok=True)
    trace = moex.read_trace("tiny")
    trace.provenance.pop("cold")
    path = moex.write_trace(trace, folder / "trace.parquet")
    words = ("smoke=false", "workload.cold=true", f"trace={path}", "cache=lru,lfu")
    words += ("prefetch=gate", "prefetch.governor=off")
    whole, shards = (
        sweep(folder / "whole", *words),
        sweep(folder / "shards", *words, "shards=3", *launcher),
    )
    assert whole.returncode == shards.returncode == 0, whole.stderr + shards.stderr
    expected, found = rows(folder / "whole"), rows(folder / "shards")
    assert {row.pop("shards") for row in found.values()} == {3}
    assert {row.pop("shards") for row in expected.values()} == {1}
    assert found == expected
    assert len(found) == 2
    assert not list((folder / "shards").glob("*/shards")), "they are in the rows now"
    return shards.stderr


@pytest.mark.study
@needs("joblib")
def test_shards_of_cells_run_in_workers_and_add_up(tmp_path):
    told = sharded(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert told.count("of 3 is replayed") == 6


@pytest.mark.study
@needs("joblib")
def test_a_warm_cache_is_not_sharded(tmp_path):
    words = ("cache=lru,lfu", "smoke=false", "shards=2", "workload.cold=false")
    trace = moex.read_trace("tiny")
    trace.provenance.pop("cold")
    path = moex.write_trace(trace, tmp_path / "warm.parquet")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = sweep(tmp_path / "out", *words, f"trace={path}", *joblib)
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("moex: failed: ")]
    assert len(failed) == 2, "a line a cell"
    assert all("shards=2: this cache stays warm" in line for line in failed)
    assert "2 of 2 cells of the sweep failed" in done.stderr


@pytest.mark.study
@needs("optuna")
def test_optuna_finds_the_best_of_two(tmp_path):
    words = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.direction=maximize")
    done = sweep(tmp_path, *words, "objective=hit_rate", "memory.slots=2,4,6")
    assert done.returncode == 0, done.stderr
    best = (tmp_path / "optimization_results.yaml").read_text()
    value = float(best.partition("best_value: ")[2].split()[0])
    assert value == max(row["hit_rate"] for row in rows(tmp_path).values())


@needs("optuna")
def test_a_search_for_a_number_that_rows_lack_says_why_and_what_to_type(tmp_path):
    words = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    done = sweep(tmp_path, *words, "memory.slots=2,4")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("moex: objective=tokens_per_second: null in this row (hardware=auto")
    assert line.endswith("try hardware=rtx3060, or objective=hit_rate")


@pytest.mark.slow
@needs("submitit")
@pytest.mark.skipif(not slurm.there(), reason="Slurm is not installed, or we are not root")
def test_a_real_slurm_cluster_gives_the_same_rows_and_says_why_a_cell_failed(
    serial, tmp_path, tmp_path_factory, monkeypatch
):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as configuration:
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        for launcher in ("slurm", "submitit_slurm"):
            done = sweep(tmp_path / launcher, *CELLS, f"hydra/launcher={launcher}")
            assert done.returncode == 0, done.stderr
            assert rows(tmp_path / launcher) == serial
        sharded(tmp_path / "cold", "hydra/launcher=slurm")
        done = sweep(tmp_path, "memory.slots=9,2", "hydra/launcher=slurm")
    assert done.returncode == 1
    assert "prefetch=none memory.slots=9: memory.slots=9: expected 0" in done.stderr
    assert "1 of 2 cells of the sweep failed" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@needs("ray")
def test_a_real_ray_cluster_gives_the_same_rows(serial, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [shutil.which("ray") or "ray", "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000"]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    cluster = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        words = ("hydra/launcher=ray", f"hydra.launcher.address=127.0.0.1:{port}")
        for _ in range(30):
            done = sweep(tmp_path, *CELLS, *words)
            if "no Ray cluster" not in done.stderr:
                break
            time.sleep(1)
        assert done.returncode == 0, done.stderr
        assert rows(tmp_path) == serial
        sharded(tmp_path / "cold", *words)
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(timeout=60)
