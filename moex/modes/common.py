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
    Items = dict[str, list[tuple[int, float]]]


PARTIAL = "series.partial.jsonl"
"""What a run that was stopped had measured; gone once a run in the folder has finished."""


def load(config: Any, build: Build, store: str = "ram") -> Parts:
    """The configured model: its skeleton in memory, its experts in a store."""
    from moex.runner.assemble import load_parts

    model = config.model
    quant = build(config.quant) if "_target_" in config.quant else None
    return load_parts(model.name, model.dtype, model.device, store, config.cache_dir, quant)


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
    Beside what was measured of the unquantized model on the same items, rows say what changed.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    miss = build(config.miss)
    limit = 4 if config.smoke else config.eval.limit
    settings = {
        "model": folder_digest(parts.folder),
        "dtype": str(parts.dtype),
        "quant": parts.quantized or dict(config.quant),
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
    kept = _kept(settings)
    if config.force or not kept.is_file():
        rows, items = _measure(config, parts, build, limit)
        found = {"settings": settings, "rows": rows, "items": items}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(found, default=str))
    found = json.loads(kept.read_text())
    report.tasks = found["rows"]
    exact = _kept({**settings, "quant": {"name": "none"}})
    if exact != kept and exact.is_file():
        from moex.evals.lm import pair

        pair(report.tasks, found["items"], json.loads(exact.read_text())["items"])


def _kept(settings: dict[str, Any]) -> Path:
    """Where the accuracy of these settings is kept."""
    return Path("results") / "accuracy" / f"{key_of(settings)}.json"


def _measure(config: Any, parts: Parts, build: Build, limit: int | None) -> tuple[list, Items]:
    """Rows of the configured tasks, and the value of every item."""
    from moex.cache.lru import LRU
    from moex.evals.stepwise import stepwise
    from moex.runner.assemble import fits, offload

    miss = build(config.miss)
    if miss.lossy:
        policy, memory = build(config.cache), Memory(**config.memory)
        lossy = offload(parts, policy, memory, seed=config.seed, miss=miss)
        with lossy as model, stepwise(model, lossy.empty):
            return _evaluate(model, config, parts, limit, 1)
    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    with offload(parts, LRU(), memory) as model:
        return _evaluate(model, config, parts, limit, config.eval.batch_size)


def _evaluate(
    model: Any, config: Any, parts: Parts, limit: int | None, batch_size: int
) -> tuple[list, Items]:
    from moex.evals.lm import evaluate

    items: Items = {}
    rows = evaluate(
        model,
        parts.tokenizer(),
        list(config.eval.tasks),
        limit=limit,
        batch_size=batch_size,
        seed=config.seed,
        data_dir=config.eval.data_dir,
        text_dir=config.eval.text_dir,
        items=items,
    )
    return rows, items
