"""The composition root: builds what a configuration names, runs a mode, keeps results.

Only this package, the sweeps and run.py know Hydra and OmegaConf.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from moex.cli import console, limit, objective
from moex.cli.build import GROUPS, check_all, imported, typed_run
from moex.cli.errors import one_line
from moex.cli.overrides import count_cells, is_grid, notice_ignored
from moex.modes.common import PARTIAL
from moex.modes.live import analyze
from moex.modes.shards import shard_folder
from moex.paths import CONF
from moex.runs.atomic import exclusive_lock, write_atomically
from moex.runs.notes import note
from moex.runs.provenance import provenance
from moex.runs.report import Report
from moex.runs.run_id import code_version, key_of, run_id

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

    from moex.modes.run import Run

LIMITED = ("live", "verify", "eval")
"""Modes that run a model, which `memory.limit` holds for."""


def run(config: DictConfig) -> float | None:
    """Run a configuration in its results folder, or show the result that is already there."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        return _run(config, folder)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # Hydra made it, and what was refused has put nothing into it
        raise


def _run(config: DictConfig, folder: Path) -> float | None:
    job = typed_run(config)
    check_all(job.settings, HydraConfig.get().runtime.choices)
    objective.check(job.objective)
    if job.runner.name != "moex" and job.mode.name not in ("live", "verify"):
        raise ValueError(
            f"runner={job.runner.name}: mode={job.mode.name} knows moex only; expected "
            "runner=moex; baselines are for mode=live"
        )
    _refuse_mistyped(job)
    tracker = job.make("tracker")
    name = run_id(job.settings)
    if job.shard is not None:
        _replay_shard(job, shard_folder(folder, job.shard, job.shards), name)
        return None
    if not in_sweep():
        notice_ignored(config, HydraConfig.get().overrides.task)
    with exclusive_lock(
        folder, lambda: note("another process is running this configuration: waiting for it")
    ):
        report, why = (None, "") if job.force else _finished(folder, name)
        counted = report is not None and report.requests is not None
        if report and job.bottleneck and report.bottleneck is None and counted:
            report, why = _analyzed(report, job, folder)
        if why and not (report and in_sweep()):  # the sweep has counted those
            note(why)
        fresh = report is None
        if report is None:
            report = _execute(job, folder, name)
        else:
            _enter(folder)
    console.show(report, folder, brief=in_sweep())
    try:
        tracker.publish(folder, _group(), fresh)
    except Exception as error:
        note(f"not tracked ({one_line(error)}); the run itself is complete")
    if in_sweep() and not is_grid(HydraConfig.get().sweeper):
        return objective.found(report, job.objective)
    return getattr(report, job.objective, None)


def _replay_shard(job: Run, folder: Path, name: str) -> None:
    """Replay one shard of a run, in a folder within the run's; the run itself adds them up."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(folder, lambda: note("another process replays this shard: waiting")):
            if job.force or _finished(folder, name)[0] is None:
                _execute(job, folder, name)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # empty: it was refused
            folder.parent.rmdir()
        raise
    note(f"{name}: shard {job.shard} of {job.shards} is replayed")


def _execute(job: Run, folder: Path, name: str) -> Report:
    """Run the mode; whatever happens, `result.json` is there only with all that belongs to it."""
    granted = None
    if job.mode.name in LIMITED:
        granted = limit.enter(job.settings["memory"].get("limit"), in_sweep())
    folder.mkdir(parents=True, exist_ok=True)  # another one, refused, may have taken it away
    for left_over in folder.glob(".*.part"):
        if left_over.is_dir():
            rmtree(left_over)
        else:
            left_over.unlink()
    with suppress(FileNotFoundError):
        os.replace(folder / "result.json", folder / "result.previous.json")
    report: Report = imported(job.mode.run, "mode.run")(job, folder)
    report.fill(run_id=name, **_names(report, job), code=code_version(), **provenance())
    report.memory_limit = granted
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.settings)))
    if job.shard is None:
        _enter(folder)
    report.write(folder)
    (folder / PARTIAL).unlink(missing_ok=True)
    rmtree(folder / "shards", ignore_errors=True)  # they are in the row now
    return report


def _analyzed(report: Report, job: Run, folder: Path) -> tuple[Report | None, str]:
    """Add the bottleneck line to a cached result that has none; None: it must be replayed."""
    cached = "cached result without a bottleneck line"
    if report.source == "sim":
        return None, f"{cached}: replaying it"
    analyze(report, job, folder)
    if report.bottleneck is None:
        return report, cached
    report.write(folder)
    return report, f"{cached}: added from its trace"


def _refuse_mistyped(job: Run) -> None:
    """Refuse settings that a class does not accept, also where this mode ignores them."""
    given = {re.sub(r"\W.*", "", word.lstrip("+~")) for word in HydraConfig.get().overrides.task}
    for group in sorted(given & {*HydraConfig.get().runtime.choices} & {*job.settings}):
        if group not in GROUPS:  # those are checked already
            job.make(group)


def in_sweep() -> bool:
    """Whether this run is one cell of a multirun."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


class Sweep(Callback):
    """Reports how many cells of a repeated multirun have cached results.

    Its configuration is `hydra.callbacks` in conf/config.yaml. Cells enter their names in a
    file, because composing a cell to know its name takes as long as a short simulation.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Count the cells of this sweep that have cached results."""
        notice_ignored(config, config.hydra.overrides.task)
        settings = {
            "words": OmegaConf.to_container(config.hydra.overrides.task),
            "study": config.hydra.sweeper.get("params"),
            "conf": [path.read_text() for path in sorted(CONF.rglob("*.yaml"))],
        }
        os.environ["MOEX_SWEEP"] = key_of(settings)  # workers of a launcher see it, too
        self.folder, self.total = Path(config.hydra.sweep.dir), count_cells(config)
        self.before = 0 if config.force else self._done()
        if self.before:
            note(f"{self.before} of {self.total} cells were finished before")
        ours = f'"code": "{code_version()}"'
        rows = [path.read_text() for path in self.folder.glob("*/result.json")]
        if others := sum(ours not in row for row in rows):
            note(f"{others} results in {self.folder} were made by other code of moex: not used")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Let go of a cell's configurations: Hydra keeps two of every cell until the last."""
        job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Count again, from the folders: any process may have run a cell."""
        if self.before:
            note(f"{self._done()} of {self.total} cells are finished")

    def _done(self) -> int:
        noted = _noted(self.folder)
        names = set(noted.read_text().split()) if self.total and noted.is_file() else ()
        return sum(_finished(self.folder / name, name)[0] is not None for name in names)


def _noted(folder: Path) -> Path:
    """The file in a results folder that names the cells of this process's sweep."""
    return folder / ".sweeps" / os.environ.get("MOEX_SWEEP", "none")


def _enter(folder: Path) -> None:
    """Note the name of a sweep's cell; one that cannot be noted costs a count and nothing else."""
    if not in_sweep():
        return
    noted = _noted(folder.parent)
    with suppress(OSError):
        noted.parent.mkdir(exist_ok=True)
        with noted.open("a") as file:
            file.write(folder.name + "\n")


def _group() -> str | None:
    """What a tracker files the run under: its study, or its sweep."""
    study = HydraConfig.get().runtime.choices.get("experiment")
    sweep = os.environ.get("MOEX_SWEEP")
    return study or (f"sweep-{sweep}" if sweep and in_sweep() else None)


def _finished(folder: Path, name: str) -> tuple[Report | None, str]:
    """The cached report of the same configuration and code, if any, and the line to print."""
    path = folder / "result.json"
    if not path.is_file():
        stopped = (folder / PARTIAL).is_file()
        return None, f"this run was stopped before ({PARTIAL}): running it anew" if stopped else ""
    try:
        row = json.loads(path.read_text())
    except ValueError:
        return None, f"{path} is damaged: running it again"
    if row.get("run_id") != name:  # a folder of the user's own choice: hydra.run.dir=
        return None, f"{folder} held another run, whose row is result.previous.json now"
    if row.get("schema") != Report.schema or row.get("code") != code_version():
        return None, "moex itself has changed since this was run: running it again"
    return Report(**row), "cached result: this run was finished before; force=true reruns it"


def _names(report: Report, job: Run) -> dict[str, Any]:
    """Return the fields that the user chose: names of options, mode, seed."""
    choices = HydraConfig.get().runtime.choices
    names = {"mode": job.mode.name, "seed": job.seed, "smoke": job.smoke}
    names |= {"hardware": job.hardware.name, "runner": choices["runner"]}
    if report.source == "live":
        names |= {"model": job.model.name, "workload": job.workload.name}
    if report.source == "sim" or choices["runner"] == "moex":
        names |= {name: choices[name] for name in ("quant", "sparsity", "miss", "routing")}
        names |= {"policy": choices["cache"], "prefetcher": choices["prefetch"], "runner": "moex"}
    return names
