"""What several modes do: load the model, share out the cores, measure accuracy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.identity import code_version, folder_digest, key_of
from moex.report import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.report import Report
    from moex.runner.assemble import Parts

    Build = Callable[[Any], Any]


def load(config: Any, build: Build, store: str = "ram") -> Parts:
    """The configured model: its skeleton in memory, its experts in a store."""
    from moex.runner.assemble import load_parts

    model = config.model
    quant = build(config.quant) if "_target_" in config.quant else None
    return load_parts(model.name, model.dtype, model.device, store, config.cache_dir, quant)


def set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(config.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


def accuracy(report: Report, config: Any, parts: Parts) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. Beside what was
    measured of the unquantized model on the same items, rows say how they differ from it.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    limit = 4 if config.smoke else config.eval.limit
    settings = {
        "model": folder_digest(parts.folder),
        "dtype": str(parts.layout.parts[0].dtype),
        "quant": parts.quantized or dict(config.quant),
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
    kept = _kept(settings)
    if config.force or not kept.is_file():
        measured = _measure(config, parts, limit)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({"settings": settings, **measured}, default=str))
    found = json.loads(kept.read_text())
    report.tasks = found["rows"]
    exact = _kept({**settings, "quant": {"name": "none"}})
    if exact != kept and exact.is_file():
        from moex.evals.lm import pair

        pair(report.tasks, found["items"], json.loads(exact.read_text())["items"])


def _kept(settings: dict[str, Any]) -> Path:
    """Where the accuracy of these settings is kept."""
    return Path("results") / "accuracy" / f"{key_of(settings)}.json"


def _measure(config: Any, parts: Parts, limit: int | None) -> dict[str, Any]:
    """Rows of the configured tasks, and the value of every item."""
    from moex.cache.lru import LRU
    from moex.evals.lm import evaluate
    from moex.runner.assemble import fits, offload

    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    offloaded = offload(parts, LRU(), memory)
    items: dict[str, list[tuple[int, float]]] = {}
    try:
        with offloaded as model:
            rows = evaluate(
                model,
                parts.tokenizer(),
                list(config.eval.tasks),
                limit=limit,
                batch_size=config.eval.batch_size,
                seed=config.seed,
                data_dir=config.eval.data_dir,
                text_dir=config.eval.text_dir,
                items=items,
            )
    finally:
        offloaded.close()
    return {"rows": rows, "items": items}
