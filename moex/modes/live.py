"""`mode=live`: run the workload on a real model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.files import write_lines
from moex.modes.common import PARTIAL, accuracy, load, set_threads
from moex.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.common import Build
    from moex.report import Report
    from moex.runner.live import OnStop, Result, Round


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
    on_stop = partial(_write_series, folder / PARTIAL)
    if config.runner.name != "moex":
        set_threads(config)
        result = _baseline(config, workload, on_stop)
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
            *(parts, tokenizer, workload, policy, memory, prefetcher, hardware, config.seed),
            timeline=config.runner.timeline,
            on_stop=on_stop,
        )
        _write_run(result, config, workload, folder)
        set_threads(config)
        accuracy(result.report, config, parts)
    return result.report


def _baseline(config: Any, workload: Any, on_stop: OnStop) -> Result:
    from transformers import AutoTokenizer

    from moex.runner import baselines, checkpoint
    from moex.runner.live import run_baseline

    settings = (config.model.name, config.model.dtype, config.model.device)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.find(settings[0]))
    start = {"stock": baselines.stock, "accelerate": baselines.accelerate}[config.runner.name]
    with start(*settings, experts=config.runner.experts) as model:
        return run_baseline(model, config.runner.name, tokenizer, workload, config.seed, on_stop)


def _write_run(result: Result, config: Any, workload: Any, folder: Path) -> None:
    """Keep series, and of the reported round counts by layer, timeline and trace."""
    _write_series(folder / "series.jsonl", result.rounds)
    done, report = result.round, result.report
    if done.ledgers:
        from moex.cache.ledger import by_layer

        write_lines(folder / "layers.jsonl", by_layer(done.ledgers))
    if done.events:
        from moex.runner.timeline import write_timeline

        about = {"model": config.model.name, "workload": config.workload.name}
        about |= {"link": report.link, "emulated": report.emulated, **provenance()}
        write_timeline(folder / "timeline.json", done, about)
    trace = done.trace
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


def _write_series(path: Path, rounds: list[Round]) -> None:
    """One line a forward pass, of every measured round."""
    lines = ({"round": n, **line} for n, done in enumerate(rounds) for line in done.series)
    write_lines(path, lines)
