"""`mode=live`: run the workload on a real model."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.files import write_lines
from moex.modes.common import PARTIAL, accuracy, load, refuse_early, set_threads, shrunk
from moex.modes.verify import grade
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

    workload, hardware = shrunk(build(config.workload), config), build(config.hardware)
    torch.manual_seed(config.seed)
    on_stop = partial(_write_series, folder / PARTIAL)
    if config.runner.name != "moex":
        set_threads(config)
        result = _baseline(config, workload, on_stop)
        _write_run(result, config, workload, folder)
        return result.report
    policy, memory = build(config.cache), Memory(**config.memory)
    prefetcher, miss = build(config.prefetch), build(config.miss)
    refuse_early(config, workload, memory, prefetcher)
    parts = load(config, memory.store)
    with closing(parts.store):
        readers = memory.reader_threads if parts.store.name == "disk" else 0
        set_threads(config, 1 if hardware.timed else readers)
        batches = workload.batches(parts.tokenizer(), parts.device)
        result = run_offloaded(
            *(parts, batches, workload, policy, memory, prefetcher, hardware, config.seed, miss),
            timeline=config.runner.timeline,
            on_stop=on_stop,
        )
        grade(result.report, config, parts, workload, batches)
        _write_run(result, config, workload, folder)
        set_threads(config)
        accuracy(result.report, config, parts, build)
    return result.report


def _baseline(config: Any, workload: Any, on_stop: OnStop) -> Result:
    from moex.runner import baselines, checkpoint
    from moex.runner.live import run_baseline
    from moex.runner.tokenizer import load_tokenizer

    settings = (config.model.name, config.model.dtype, config.model.device)
    start = {"stock": baselines.stock, "accelerate": baselines.accelerate}[config.runner.name]
    with start(*settings, experts=config.runner.experts) as model:
        tokenizer = load_tokenizer(checkpoint.find(settings[0]), model)
        batches = workload.batches(tokenizer, str(model.device))
        return run_baseline(model, config.runner.name, batches, workload, config.seed, on_stop)


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
