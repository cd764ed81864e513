"""The composition root: builds what a configuration names, runs a mode, keeps results.

Only this package, the sweeps and run.py know Hydra and OmegaConf.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moex.cli import console, objective
from moex.cli.build import GROUPS, check_all, imported, typed_run
from moex.cli.errors import one_line
from moex.cli.overrides import is_grid, notice_ignored
from moex.cli.sweep import KEY, enter, finished, in_sweep, show_progress
from moex.modes.common import PARTIAL
from moex.modes.live import analyze
from moex.modes.shards import shard_folder
from moex.runs import limit
from moex.runs.atomic import exclusive_lock, write_atomically
from moex.runs.notes import note, progress
from moex.runs.provenance import provenance
from moex.runs.run_id import code_version, run_id

if TYPE_CHECKING:
    from moex.modes.run import Run
    from moex.runs.report import Report

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
    show_progress()
    if job.shard is not None:
        _replay_shard(job, shard_folder(folder, job.shard, job.shards), name)
        return None
    if not in_sweep():
        notice_ignored(config, HydraConfig.get().overrides.task)
    if not job.mode.kept:
        _interact(job, folder)
        return None
    with exclusive_lock(
        folder, lambda: note("another process is running this configuration: waiting for it")
    ):
        report, why = (None, "") if job.force else finished(folder, name)
        counted = report is not None and report.requests is not None
        if report and job.bottleneck and report.bottleneck is None and counted:
            report, why = _analyzed(report, job, folder)
        if why and not (report and in_sweep()):  # the sweep has counted those
            note(why)
        fresh = report is None
        if report is None:
            report = _execute(job, folder, name)
        else:
            enter(folder)
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
            if job.force or finished(folder, name)[0] is None:
                _execute(job, folder, name)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # empty: it was refused
            folder.parent.rmdir()
        raise
    note(f"{name}: shard {job.shard} of {job.shards} is replayed")


def _interact(job: Run, folder: Path) -> None:
    """Run a mode that keeps no result."""
    if in_sweep():
        raise ValueError(
            f"mode={job.mode.name}: is typed to, and cannot be swept; expected one run; try "
            "mode=live"
        )
    imported(job.mode.run, "mode.run")(job, folder)
    with suppress(OSError):
        folder.rmdir()  # Hydra made it


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
    if not in_sweep():
        progress(f"mode={job.mode.name}: starting")
    report: Report = imported(job.mode.run, "mode.run")(job, folder)
    report.fill(run_id=name, **_names(report, job), code=code_version(), **provenance())
    report.memory_limit = granted
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.settings)))
    if job.shard is None:
        enter(folder)
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


def _group() -> str | None:
    """What a tracker files the run under: its study, or its sweep."""
    study = HydraConfig.get().runtime.choices.get("experiment")
    sweep = os.environ.get(KEY)
    return study or (f"sweep-{sweep}" if sweep and in_sweep() else None)


def _names(report: Report, job: Run) -> dict[str, Any]:
    """Return the fields that the user chose: names of options, mode, seed."""
    choices = HydraConfig.get().runtime.choices
    names = {"mode": job.mode.name, "seed": job.seed, "smoke": job.smoke}
    names |= {"hardware": job.hardware.name, "runner": choices["runner"]}
    names |= {"host_bytes_per_s": job.hardware.host_bytes_per_s}
    if report.source == "live":
        names |= {"model": job.model.name, "workload": job.workload.name}
    if report.source == "sim" or choices["runner"] == "moex":
        names |= {name: choices[name] for name in ("quant", "sparsity", "miss", "routing")}
        names |= {"policy": choices["cache"], "prefetcher": choices["prefetch"], "runner": "moex"}
    return names
