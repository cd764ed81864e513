"""What `mode=` can be: every function takes a configuration and makes a report.

Configurations are read by attribute only, and parts are made by the `build` that the composition
root passes in, so that nothing here knows Hydra.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.identity import code_version, folder_digest, key_of, trace_path
from moex.provenance import provenance
from moex.report import Report, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.runner.assemble import Parts
    from moex.runner.live import Result

    Build = Callable[[Any], Any]


def live(config: Any, folder: Path, build: Build) -> Report:
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
        _set_threads(config)
        result = _baseline(config, workload)
        _write_run(result, config, workload, folder)
        return result.report
    policy, memory = build(config.cache), Memory(**config.memory)
    prefetcher = build(config.prefetch)
    parts = _parts(config, memory.store)
    with closing(parts.store):
        readers = memory.reader_threads if parts.store.name == "disk" else 0
        _set_threads(config, 1 if hardware.timed else readers)
        tokenizer = parts.tokenizer()
        result = run_offloaded(
            parts, tokenizer, workload, policy, memory, prefetcher, hardware, config.seed
        )
        _write_run(result, config, workload, folder)
        _set_threads(config)
        accuracy(result.report, config, parts)
    return result.report


def _parts(config: Any, store: str = "ram") -> Parts:
    from moex.runner.assemble import load_parts

    model = config.model
    return load_parts(model.name, model.dtype, model.device, store, config.cache_dir)


def accuracy(report: Report, config: Any, parts: Parts) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    limit = 4 if config.smoke else config.eval.limit
    settings = {
        "model": folder_digest(parts.folder),
        "dtype": str(parts.layout.parts[0].dtype),
        "quant": dict(config.quant),
        "sparsity": dict(config.sparsity),
        "miss": dict(config.miss),
        "tasks": tasks,
        "limit": limit,
        "seed": config.seed,
        "items": code_version("evals"),
        "text_dir": config.eval.text_dir,
        "data_dir": config.eval.data_dir,
    }
    report.accuracy_key = key_of(settings)
    kept = Path("results") / "accuracy" / f"{report.accuracy_key}.json"
    if kept.is_file() and not config.force:
        report.tasks = json.loads(kept.read_text())["rows"]
        return
    from moex.cache.lru import LRU
    from moex.evals.lm import evaluate
    from moex.runner.assemble import fits, offload

    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    offloaded = offload(parts, LRU(), memory)
    try:
        with offloaded as model:
            report.tasks = evaluate(
                model,
                parts.tokenizer(),
                tasks,
                limit=limit,
                batch_size=config.eval.batch_size,
                seed=config.seed,
                data_dir=config.eval.data_dir,
                text_dir=config.eval.text_dir,
            )
    finally:
        offloaded.close()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps({"settings": settings, "rows": report.tasks}, default=str))


def evaluate(config: Any, folder: Path, build: Build) -> Report:
    """Measure accuracy only."""
    if not config.eval.tasks:
        raise ValueError("eval.tasks=[]: mode=eval expects tasks; try eval=quick")
    _set_threads(config)
    report = Report(source="live", mode="eval")
    parts = _parts(config)
    with closing(parts.store):
        accuracy(report, config, parts)
    return report


def _set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(config.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


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


def simulate(config: Any, folder: Path, build: Build) -> Report:
    """Replay a recorded trace."""
    from moex.api import read_trace
    from moex.cache.core import ExpertCache
    from moex.sim.simulator import simulate as replay

    if not config.trace:
        raise ValueError(
            "trace=null: mode=simulate replays a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace, memory = read_trace(trace_path(config.trace)), Memory(**config.memory)
    policy, prefetcher, hardware = (
        build(config[group]) for group in ("cache", "prefetch", "hardware")
    )
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
    report = replay(trace, cache, prefetcher, hardware, cold)
    if config.verdict:
        from moex.sim.verdict import judge

        report.verdict = str(judge(trace, cache, prefetcher, hardware, cold))
    report.model = str(trace.provenance.get("model", ""))
    report.workload = str(trace.provenance.get("workload", Path(config.trace).stem))
    return report


def calibrate(config: Any, folder: Path, build: Build) -> Report:
    """Measure this machine with this model and write a hardware profile."""
    from dataclasses import asdict

    from moex.runner.calibrate import calibrate as measure

    _set_threads(config)
    parts = _parts(config)
    profile = measure(parts, tokens=8 if config.smoke else 64)
    fields = {name: value for name, value in asdict(profile).items() if value is not None}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    text = "\n".join(["_target_: moex.sim.hardware.HardwareProfile", *lines]) + "\n"
    path = folder / "hardware" / "measured.yaml"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, f"# python run.py --config-dir {folder} hardware=measured\n{text}")
    report = Report(source="live", mode="calibrate")
    per_token = profile.visit_s + parts.geometry.top_k * profile.expert_s
    report.tpot_s = parts.geometry.layers * per_token + profile.pass_s
    report.link_bytes_per_s = profile.link_bytes_per_s
    report.verdict = f"profile written; use it with: --config-dir {folder} hardware=measured"
    return report


MODES = {"live": live, "simulate": simulate, "eval": evaluate, "calibrate": calibrate}
