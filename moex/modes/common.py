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
    from moex.sparsity.base import NeuronSelector

    Build = Callable[[Any], Any]
    Items = dict[str, dict[str, list[tuple[int, float]]]]


def load(config: Any, store: str = "ram") -> Parts:
    """The configured model: its skeleton in memory, its experts in a store."""
    from moex.runner.assemble import load_parts

    model, bundles = config.model, selects(config)
    return load_parts(model.name, model.dtype, model.device, store, config.cache_dir, bundles)


def selects(config: Any) -> bool:
    """Whether only some neurons count: a selector is configured, and is not exact."""
    return "_target_" in config.sparsity and config.sparsity.mode != "exact"


def make_selector(config: Any, build: Build) -> NeuronSelector | None:
    """The configured neuron selector; None where all neurons count."""
    return build(config.sparsity) if selects(config) else None


def set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(config.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


def accuracy(report: Report, config: Any, parts: Parts, build: Build) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. With a neuron
    selector every token, of the prompt too, gets the mask that decoding would give it, and rows say
    how far they are from the dense model's on the same items, if those were measured before.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    from moex.runner.assemble import bind_selector

    limit = 4 if config.smoke else config.eval.limit
    selector = make_selector(config, build)
    if selector is not None:
        bind_selector(parts, selector)
        selector.prefill = "masked"
        report.prefill_masks = report.prefill_masks or "masked"
    dense = {"name": "none"}
    settings = {
        "model": folder_digest(parts.folder),
        "dtype": str(parts.layout.parts[0].dtype),
        "quant": dict(config.quant),
        "sparsity": _sparsity(config, selector) if selector else dense,
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
    items: Items = {}
    from moex.cache.lru import LRU
    from moex.evals.lm import evaluate
    from moex.runner.assemble import fits, offload

    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    offloaded = offload(parts, LRU(), memory, selector=selector)
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
                items=items,
            )
    finally:
        offloaded.close()
    if selector is not None:
        _compare(
            report.tasks, items, kept.with_name(f"{key_of(settings | {'sparsity': dense})}.json")
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    results = {"settings": settings, "rows": report.tasks, "items": items}
    write_atomically(kept, json.dumps(results, default=str))


def _sparsity(config: Any, selector: NeuronSelector) -> dict[str, Any]:
    """What decides the masks."""
    return {**config.sparsity, "prefill": "masked", "identity": selector.identity}


def _compare(rows: list[dict[str, Any]], items: Items, dense: Path) -> None:
    """Say in every row how far it is from the dense model's, where that is known."""
    if not dense.is_file():
        return
    from moex.evals.paired import differences

    theirs = json.loads(dense.read_text()).get("items", {})
    found = {(row["task"], row["metric"]): row for row in differences(items, theirs)}
    for row in rows:
        other = found.get((row["task"], row["metric"]))
        if other is not None:
            row["difference"], row["difference_stderr"] = other["difference"], other["stderr"]
