"""The composition root: builds the parts that a configuration names, runs a mode, keeps results.

The only file that knows Hydra and OmegaConf besides run.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from moex import console
from moex.identity import code_version, run_id
from moex.provenance import provenance
from moex.report import Report, write_atomically


def build(node: DictConfig) -> Any:
    """Make the object that a group's `_target_` names: the only caller of `instantiate`."""
    return instantiate(node, _convert_="object")


def run(config: DictConfig) -> float | None:
    """Run a configuration in its results folder, or show the result that is already there."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    name = run_id(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    report = None if config.force else _finished(folder)
    if report is None:
        report = get_method(config.mode.run)(config, folder, build)
        _names(report, config)
        report.run_id, report.mode, report.seed = name, config.mode.name, config.seed
        report.smoke = config.smoke
        for field, value in provenance().items():
            setattr(report, field, value)
        report.code = code_version()
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        report.write(folder)
    console.show(report, folder, brief=in_sweep())
    return getattr(report, config.objective, None)


def in_sweep() -> bool:
    """Whether this run is one cell of a multirun."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _finished(folder: Path) -> Report | None:
    """Return the report of an earlier run of the same configuration by the same code."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    row = json.loads(path.read_text())
    if row.get("schema") != Report.schema or row.get("code") != code_version():
        console.note("moex itself has changed since this was run: running it again")
        return None
    console.note("this very run was finished before; force=true runs it again")
    return Report(**row)


def _names(report: Report, config: DictConfig) -> None:
    """What the row calls its parts: the words that the user typed."""
    choices = HydraConfig.get().runtime.choices
    report.hardware, report.runner = config.hardware.name, choices["runner"]
    if report.source == "live":
        report.model, report.workload = config.model.name, config.workload.name
    if report.source == "sim" or report.runner == "moex":
        report.runner = "moex"
        report.policy, report.prefetcher = choices["cache"], choices["prefetch"]
        report.quant, report.sparsity = choices["quant"], choices["sparsity"]
        report.miss = choices["miss"]
