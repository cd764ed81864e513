"""`mode=live`: run the workload on a real model."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.modes.common import accuracy, load, set_threads
from moex.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.common import Build
    from moex.report import Report
    from moex.runner.live import Result


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
    parts = load(config, build, memory.store)
    with closing(parts.store):
        readers = memory.reader_threads if parts.store.name == "disk" else 0
        set_threads(config, 1 if hardware.timed else readers)
        tokenizer = parts.tokenizer()
        result = run_offloaded(
            parts, tokenizer, workload, policy, memory, prefetcher, hardware, config.seed
        )
        _write_run(result, config, workload, folder)
        set_threads(config)
        accuracy(result.report, config, parts)
    return result.report


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
    """Keep the series (one line a forward pass, of every measured round) and the trace."""
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
