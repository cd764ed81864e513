"""The composition root: builds the parts that a configuration names, runs a mode, keeps results.

The only file that knows Hydra and OmegaConf besides run.py.
"""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from moex import console
from moex.identity import code_version, run_id
from moex.provenance import provenance
from moex.report import Report

if TYPE_CHECKING:
    from moex.runner.live import Result

log = logging.getLogger(__name__)


def build(node: DictConfig) -> Any:
    """Make the object that a group's `_target_` names: the only caller of `instantiate`."""
    return instantiate(node, _convert_="object")


def run(config: DictConfig) -> float | None:
    """Run a configuration in its results folder, or show the result that is already there."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    name = run_id(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    report = None if config.force else _finished(folder)
    if report is None:
        report = MODES[config.mode.name](config, folder)
        report.run_id, report.mode, report.seed = name, config.mode.name, config.seed
        report.smoke = config.smoke
        for field, value in provenance().items():
            setattr(report, field, value)
        report.code = code_version()
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        report.write(folder)
    console.show(report, folder)
    return getattr(report, config.objective, None)


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


def _memory(config: DictConfig) -> Any:
    from moex.cache.capacity import Memory

    return Memory(**OmegaConf.to_container(config.memory))  # type: ignore[arg-type]


def _names(report: Report, config: DictConfig) -> None:
    """What the row calls its parts: the words that the user typed."""
    choices = HydraConfig.get().runtime.choices
    report.model, report.workload = config.model.name, config.workload.name
    report.runner, report.hardware = choices["runner"], config.hardware.name
    if report.runner == "moex":
        report.policy, report.prefetcher = choices["cache"], choices["prefetch"]
        report.quant, report.sparsity = choices["quant"], choices["sparsity"]
        report.miss = choices["miss"]


def live(config: DictConfig, folder: Path) -> Report:
    """Run the workload on the model."""
    import torch

    from moex.runner.assemble import load_parts
    from moex.runner.live import run_offloaded
    from moex.trace.format import write_trace

    workload, hardware = build(config.workload), build(config.hardware)
    if config.smoke:
        workload = replace(
            workload, prompts=workload.prompts[:1], new_tokens=4, warmup=0, repeats=1
        )
    torch.manual_seed(config.seed)
    settings = (config.model.name, config.model.dtype, config.model.device)
    if config.runner.name == "moex":
        policy, memory, prefetcher = build(config.cache), _memory(config), build(config.prefetch)
        parts = load_parts(*settings, memory.store, config.cache_dir)
        readers = memory.reader_threads if parts.store.name == "disk" else 0
        _compute_with(config.runner.threads, 1 if hardware.timed else readers)
        with closing(parts.store):
            result = run_offloaded(
                parts,
                parts.tokenizer(),
                workload,
                policy,
                memory,
                prefetcher,
                hardware,
                config.seed,
            )
    else:
        _compute_with(config.runner.threads, 0)
        result = _baseline(config, settings, workload)
    _names(result.report, config)
    _write_series(result, folder)
    if result.round.trace is not None:
        trace = result.round.trace
        trace.provenance = {
            "model": config.model.name,
            "workload": config.workload.name,
            "cold": workload.cold,
            "smoke": config.smoke,
            **provenance(),
        }
        write_trace(trace, folder / "trace.parquet")
    return result.report


def _compute_with(threads: int | None, link_threads: int) -> None:
    """Compute with so many threads; by default with the cores that the link leaves."""
    import torch

    torch.set_num_threads(threads or max(1, torch.get_num_threads() - link_threads))


def _baseline(config: DictConfig, settings: tuple[str, str, str], workload: Any) -> Result:
    from transformers import AutoTokenizer

    from moex.runner import baselines, checkpoint
    from moex.runner.live import run_baseline

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.find(settings[0]))
    start = {"stock": baselines.stock, "accelerate": baselines.accelerate}[config.runner.name]
    with start(*settings, experts=config.runner.experts) as model:
        return run_baseline(model, config.runner.name, tokenizer, workload, config.seed)


def _write_series(result: Result, folder: Path) -> None:
    """One line a forward pass, of every measured round."""
    with (folder / "series.jsonl").open("w") as file:
        for number, done in enumerate(result.rounds):
            file.writelines(json.dumps({"round": number, **line}) + "\n" for line in done.series)


def simulate(config: DictConfig, folder: Path) -> Report:
    """Replay a recorded trace."""
    from moex.api import read_trace
    from moex.cache.core import ExpertCache
    from moex.sim.simulator import simulate as replay

    if not config.trace:
        raise ValueError(
            "trace=null: mode=simulate replays a recorded trace; try "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace, memory, policy = read_trace(config.trace), _memory(config), build(config.cache)
    cache = ExpertCache(
        policy,
        trace.geometry,
        memory.resolve(trace.geometry),
        memory.pool,
        memory.staging,
        config.seed,
        trace.future() if "future" in policy.needs else None,
    )
    cold = bool(trace.provenance.get("cold", config.workload.cold))
    report = replay(trace, cache, build(config.prefetch), build(config.hardware), cold)
    _names(report, config)
    report.runner = "moex"
    report.model = str(trace.provenance.get("model", ""))
    report.workload = str(trace.provenance.get("workload", Path(config.trace).stem))
    return report


MODES = {"live": live, "simulate": simulate}
