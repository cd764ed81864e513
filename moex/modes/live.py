"""`mode=live`: run the workload on a real model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from moex.modes.accuracy import accuracy, check_tasks
from moex.modes.common import (
    PARTIAL,
    load,
    make_setup,
    measure_hardware,
    set_threads,
    shrunk,
    vocabulary,
    write_counts,
)
from moex.modes.verify import grade
from moex.runs.atomic import write_lines
from moex.runs.notes import note, progress
from moex.runs.provenance import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from moex.bench.rounds import OnStop, Result, Round
    from moex.bench.workload import Workload
    from moex.modes.run import Run
    from moex.runner.assemble import Setup
    from moex.runs.report import Report


DRIFT = 0.1
"""More than this between two rounds is worth a notice."""


def run(run: Run, folder: Path) -> Report:
    """Run the workload on the model."""
    import torch

    from moex.bench.rounds import run_offloaded

    check_tasks(run)
    workload = shrunk(run)
    torch.manual_seed(run.seed)
    on_stop = partial(_write_series, folder / PARTIAL)
    if run.runner.name != "moex":
        set_threads(run)
        result = _baseline(run, workload, on_stop)
        _write_run(result, run, workload, folder)
        return result.report
    measure_hardware(run)
    setup = make_setup(run, workload)
    progress(f"loading {run.model.name}")
    loaded = load(run, setup.memory.store)
    with closing(loaded.store):
        readers = setup.memory.reader_threads if loaded.store.io else 0
        timed = setup.hardware is not None and setup.hardware.timed
        set_threads(run, 1 if timed else readers)
        tokenizer = workload.tokenizer(loaded.tokenizer, vocabulary(loaded.model))
        batches = workload.batches(tokenizer, loaded.device)
        timeline = run.runner.timeline
        progress("first pass")
        result = run_offloaded(loaded, batches, workload, setup, timeline, on_stop, folder)
        if not loaded.random_weights:
            grade(result.report, run, loaded, workload, batches)
        _write_run(result, run, workload, folder)
        if run.bottleneck:
            progress("looking for the bottleneck")
            result.report.bottleneck = _bottleneck(result.report, folder, setup, workload.cold)
        set_threads(run)
        if not loaded.random_weights:
            progress(f"accuracy: {', '.join(run.eval.tasks) or 'none'}")
            accuracy(result.report, run, loaded)
    return result.report


def analyze(report: Report, run: Run, folder: Path) -> None:
    """Add the bottleneck line to the row of a run that was made without one."""
    workload = shrunk(run)
    setup = make_setup(run, workload)
    report.bottleneck = _bottleneck(report, folder, setup, workload.cold)


def _bottleneck(report: Report, folder: Path, setup: Setup, cold: bool) -> str | None:
    """What limited the run, from replays of its trace; a failed analysis never costs the run."""
    from moex.sim.bottleneck import analyze_live, live_line
    from moex.trace.files import open_trace

    try:
        memory = replace(setup.memory, slots=report.layer_slots or report.slots, budget=None)
        trace = open_trace(folder / "trace.parquet")
        overlaps = trace.provenance.get("overlaps") is not False
        slices = tuple(trace.provenance.get("slices", ()))
        decisions = replace(setup, memory=memory).decisions(report.store, overlaps, slices)
        return live_line(analyze_live(trace, decisions, setup.hardware, report, cold), report)
    except Exception as error:
        note(f"no bottleneck line: the trace of this run could not be replayed ({error})")
        return None


def _baseline(run: Run, workload: Workload, on_stop: OnStop) -> Result:
    from moex.bench import baselines
    from moex.bench.rounds import run_baseline
    from moex.models import checkpoint
    from moex.models.checkpoint import load_tokenizer

    if run.runner.name == "llama_cpp":
        import torch

        from moex.bench.llama_cpp import run_llama_cpp

        given, threads = run.runner, torch.get_num_threads()
        kept = given.mmap, given.repack, given.gpu_layers, given.cpu_moe
        return run_llama_cpp(run.model.name, workload, threads, *kept, run.seed, on_stop)
    settings = (run.model.name, run.model.dtype, run.model.device)
    start = {"stock": baselines.stock, "accelerate": baselines.accelerate}[run.runner.name]
    with start(*settings, experts=run.runner.experts) as model:
        own = partial(load_tokenizer, checkpoint.find(settings[0]), model)
        tokenizer = workload.tokenizer(own, vocabulary(model))
        batches = workload.batches(tokenizer, str(model.device))
        return run_baseline(model, run.runner.name, batches, workload, run.seed, on_stop)


def _write_run(result: Result, run: Run, workload: Workload, folder: Path) -> None:
    """Keep series, and of the reported round counts by layer and expert, timeline and trace."""
    drift = result.report.drift or 0.0
    if drift > DRIFT:
        note(
            f"the machine's own speed drifted by {drift:.0%} between rounds: stop what else is "
            "running, or compare repeats that take turns (python -m analysis.compare)"
        )
    _write_series(folder / "series.jsonl", result.rounds)
    done, report = result.round, result.report
    if done.layer_stats:
        from moex.cache.stats import by_layer

        write_lines(folder / "layers.jsonl", by_layer(done.layer_stats))
    if done.events:
        from moex.bench.timeline import write_timeline

        about: dict[str, Any] = {"model": run.model.name, "workload": workload.name}
        about |= {"link": report.link, "emulated": report.emulated, **provenance()}
        write_timeline(folder / "timeline.json", done, about)
    trace = done.trace
    if trace is not None:
        from moex.trace.format import write_trace

        trace.provenance = {
            **trace.provenance,  # the bytes beside experts
            "model": run.model.name,
            "workload": workload.name,
            "cold": workload.cold,
            "smoke": run.smoke,
            "sparsity": run.settings["sparsity"],
            "quant": run.settings["quant"],
            "predictor_bytes": result.report.predictor_bytes,
            "store": result.report.store,
            "break_even": result.report.break_even,
            **provenance(),
        }
        write_trace(trace, folder / "trace.parquet")
        write_counts(trace, folder)


def _write_series(path: Path, rounds: list[Round]) -> None:
    """One line a forward pass, of every measured round."""
    lines = ({"round": n, **line} for n, done in enumerate(rounds) for line in done.series)
    write_lines(path, lines)
