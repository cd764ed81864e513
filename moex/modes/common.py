"""What several modes do: load the model, share out the cores, measure accuracy."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.files import write_atomically
from moex.identity import code_version, folder_digest, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.report import Report
    from moex.runner.assemble import Parts
    from moex.runner.workload import Workload
    from moex.trace.format import Trace

    Build = Callable[[Any], Any]


PARTIAL = "series.partial.jsonl"
"""What a run that was stopped had measured; gone once a run in the folder has finished."""


def load(config: Any, store: str = "ram") -> Parts:
    """The configured model: its skeleton in memory, its experts in a store."""
    from moex.runner.assemble import load_parts

    model = config.model
    return load_parts(model.name, model.dtype, model.device, store, config.cache_dir)


def shrunk(workload: Workload, config: Any) -> Workload:
    """The workload, or the least of it where everything is to be shrunk (`smoke=true`)."""
    if not config.smoke:
        return workload
    return replace(workload, limit=1, batch_size=1, new_tokens=4, warmup=0, repeats=1)


def set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(config.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


def write_counts(trace: Trace, folder: Path) -> None:
    """Keep how often every expert was used: `cache=static cache.counts=FOLDER/counts.json`."""
    from moex.trace.diagnostics import counts

    write_atomically(folder / "counts.json", json.dumps(counts(trace)) + "\n")


def accuracy(report: Report, config: Any, parts: Parts, build: Build) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. Only where misses
    are lossy does it: then the run's own cache and slots are used, decoding text by text from cold.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    miss = build(config.miss)
    limit = 4 if config.smoke else config.eval.limit
    settings = {
        "model": folder_digest(parts.folder),
        "dtype": str(parts.layout.parts[0].dtype),
        "quant": dict(config.quant),
        "sparsity": dict(config.sparsity),
        "miss": [dict(config[g]) for g in ("miss", "cache", "memory")] if miss.lossy else [],
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
    from moex.evals.stepwise import stepwise
    from moex.runner.assemble import fits, offload

    if miss.lossy:
        policy, memory = build(config.cache), Memory(**config.memory)
        lossy = offload(parts, policy, memory, seed=config.seed, miss=miss)
        with lossy as model, stepwise(model, lossy.empty):
            report.tasks = _evaluate(model, config, parts, limit, 1)
        _keep(kept, settings, report)
        return
    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    with offload(parts, LRU(), memory) as model:
        report.tasks = _evaluate(model, config, parts, limit, config.eval.batch_size)
    _keep(kept, settings, report)


def _evaluate(model: Any, config: Any, parts: Parts, limit: int, batch_size: int) -> list[Any]:
    from moex.evals.lm import evaluate

    return evaluate(
        model,
        parts.tokenizer(),
        list(config.eval.tasks),
        limit=limit,
        batch_size=batch_size,
        seed=config.seed,
        data_dir=config.eval.data_dir,
        text_dir=config.eval.text_dir,
    )


def _keep(path: Path, settings: dict[str, Any], report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"settings": settings, "rows": report.tasks}, default=str))
