"""`mode=live`: run the workload on a real model."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.modes.common import accuracy, load, set_threads, write_counts
from moex.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from moex.cache.base import CachePolicy
    from moex.modes.common import Build
    from moex.prefetch.base import Prefetcher
    from moex.report import Report
    from moex.runner.live import Result
    from moex.sim.hardware import HardwareProfile


def run(config: Any, folder: Path, build: Build) -> Report:
    """Run the workload on the model."""
    import torch

    from moex.runner.live import run_offloaded

    workload, hardware = build(config.workload), build(config.hardware)
    if config.smoke:
        workload = replace(
            workload, prompts=workload.prompts[:1], new_tokens=4, warmup=0, repeats=1
        )
    torch.manual_seed(config.seed)
    if config.runner.name != "moex":
        set_threads(config)
        result = _baseline(config, workload)
        _write_run(result, config, workload, folder)
        return result.report
    policy, memory = build(config.cache), Memory(**config.memory)
    prefetcher = build(config.prefetch)
    parts = load(config, memory.store)
    with closing(parts.store):
        readers = memory.reader_threads if parts.store.name == "disk" else 0
        set_threads(config, 1 if hardware.timed else readers)
        tokenizer = parts.tokenizer()
        result = run_offloaded(
            parts, tokenizer, workload, policy, memory, prefetcher, hardware, config.seed
        )
        _write_run(result, config, workload, folder)
        if config.verdict:
            result.report.verdict = _verdict(
                result, policy, memory, prefetcher, hardware, workload.cold
            )
        set_threads(config)
        accuracy(result.report, config, parts)
    return result.report


def _verdict(
    result: Result,
    policy: CachePolicy,
    memory: Memory,
    prefetcher: Prefetcher,
    hardware: HardwareProfile,
    cold: bool,
) -> str | None:
    """What limited the run, from replays of its trace; failing to tell never costs the run."""
    from moex.cache.core import ExpertCache
    from moex.sim.verdict import judge_live

    report, trace = result.report, result.round.trace
    assert trace is not None
    assert report.slots is not None
    try:
        future = trace.future() if "future" in policy.needs else None
        cache = ExpertCache(
            policy, trace.geometry, report.slots, memory.pool, memory.staging, report.seed, future
        )
        return judge_live(trace, cache, prefetcher, hardware, report, cold)
    except Exception:
        logging.getLogger(__name__).warning("no verdict on this run", exc_info=True)
        return None


def _baseline(config: Any, workload: Any) -> Result:
    from transformers import AutoTokenizer

    from moex.runner import baselines, checkpoint
    from moex.runner.live import run_baseline

    settings = (config.model.name, config.model.dtype, config.model.device)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.find(settings[0]))
    start = {"stock": baselines.stock, "accelerate": baselines.accelerate}[config.runner.name]
    with start(*settings, experts=config.runner.experts) as model:
        return run_baseline(model, config.runner.name, tokenizer, workload, config.seed)


def _write_run(result: Result, config: Any, workload: Any, folder: Path) -> None:
    """Keep the series (one line a forward pass, of every measured round), trace and counts."""
    with (folder / "series.jsonl").open("w") as file:
        for number, done in enumerate(result.rounds):
            file.writelines(json.dumps({"round": number, **line}) + "\n" for line in done.series)
    trace = result.round.trace
    if trace is not None:
        from moex.trace.format import write_trace

        trace.provenance = {
            "model": config.model.name,
            "workload": config.workload.name,
            "cold": workload.cold,
            "smoke": config.smoke,
            **provenance(),
        }
        write_trace(trace, folder / "trace.parquet")
        write_counts(trace, folder)
