"""What `mode=` can be: every function takes a configuration and makes a report.

Configurations are read by attribute only, and parts are made by the `build` that the composition
root passes in, so that nothing here knows Hydra.
"""

from __future__ import annotations

import json
from dataclasses import replace
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

    from moex.runner.assemble import load_parts
    from moex.runner.live import run_offloaded
    from moex.trace.format import write_trace

    workload, hardware = build(config.workload), build(config.hardware)
    if config.smoke:
        workload = replace(
            workload, prompts=workload.prompts[:1], new_tokens=4, warmup=0, repeats=1
        )
    torch.manual_seed(config.seed)
    _set_threads(config, 1 if config.runner.name == "moex" and hardware.timed else 0)
    settings = (config.model.name, config.model.dtype, config.model.device)
    if config.runner.name == "moex":
        parts = load_parts(*settings)
        result = run_offloaded(
            parts,
            parts.tokenizer(),
            workload,
            build(config.cache),
            Memory(**config.memory),
            build(config.prefetch),
            hardware,
            config.seed,
        )
    else:
        result = _baseline(config, settings, workload)
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
    if config.runner.name == "moex":
        accuracy(result.report, config, parts)
    return result.report


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
    from moex.runner.assemble import load_parts

    if not config.eval.tasks:
        raise ValueError("eval.tasks=[]: mode=eval expects tasks; try eval=quick")
    _set_threads(config)
    report = Report(source="live", mode="eval")
    accuracy(report, config, load_parts(config.model.name, config.model.dtype, config.model.device))
    return report


def _set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    cores = torch.get_num_threads()
    torch.set_num_threads(config.runner.threads or max(1, cores - link_threads))


def _baseline(config: Any, settings: tuple[str, str, str], workload: Any) -> Result:
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

    from moex.runner.assemble import load_parts
    from moex.runner.calibrate import calibrate as measure

    _set_threads(config)
    parts = load_parts(config.model.name, config.model.dtype, config.model.device)
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
