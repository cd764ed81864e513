"""What several modes do: load the model, share out the cores, measure accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    from moex.runner.setup import Setup
    from moex.runner.workload import Workload
    from moex.sparsity.base import NeuronSelector
    from moex.trace.format import Trace

    Build = Callable[[Any], Any]
    Items = dict[str, dict[str, list[tuple[int, float]]]]


PARTIAL = "series.partial.jsonl"
"""What a run that was stopped had measured; gone once a run in the folder has finished."""


def load(config: Any, build: Build, store: str = "ram", whole: bool = False) -> Parts:
    """The configured model: its skeleton in memory, its experts in a store.

    Neuron by neuron if a selector is configured, unless only whole experts are asked for.
    """
    from moex.runner.assemble import load_parts

    model = config.model
    quant = build(config.quant) if "_target_" in config.quant else None
    where = (store, config.cache_dir, model.keep_shards, _random(model))
    return load_parts(
        model.name, model.dtype, model.device, *where, quant, selects(config) and not whole
    )


def selects(config: Any) -> bool:
    """Whether only some neurons count: a selector is configured, and is not exact."""
    return "_target_" in config.sparsity and config.sparsity.mode != "exact"


def plain(node: Any) -> Any:
    """A configured group as plain dictionaries, for files and comparisons."""
    return {k: plain(v) for k, v in node.items()} if isinstance(node, Mapping) else node


def make_selector(config: Any, build: Build) -> NeuronSelector | None:
    """The configured neuron selector; None where all neurons count."""
    return build(config.sparsity) if selects(config) else None


def shrunk(workload: Workload, config: Any) -> Workload:
    """The workload, or the least of it where everything is to be shrunk (`smoke=true`)."""
    if not config.smoke:
        return workload
    return replace(workload, limit=1, batch_size=1, new_tokens=4, warmup=0, repeats=1)


def _random(model: Any) -> Any:
    """Settings of a model whose weights are to be random; None for weights of a checkpoint."""
    if model.weights not in ("checkpoint", "random"):
        raise ValueError(f"model.weights={model.weights}: expected checkpoint or random")
    if model.weights == "random" and model.architecture is None:
        raise ValueError(
            f"model.weights=random: the shapes of {model.name} are not known beforehand; expected "
            "a model whose yaml has them; try model=mixtral_8x7b model.weights=random"
        )
    return model.architecture if model.weights == "random" else None


def make_setup(config: Any, build: Build, workload: Workload) -> Setup:
    """How experts are offloaded, as configured."""
    from moex.runner.setup import Setup

    setup = Setup(
        policy=build(config.cache),
        memory=Memory(**config.memory),
        prefetcher=build(config.prefetch),
        hardware=build(config.hardware),
        seed=config.seed,
        miss=build(config.miss),
        selector=make_selector(config, build),
    )
    if setup.memory.budget is not None:
        _refuse_early(config, build, workload, setup)
    return setup


def _refuse_early(config: Any, build: Build, workload: Workload, setup: Setup) -> None:
    """Refuse a budget that holds too little before a byte of the weights is read or fetched."""
    from moex.runner import budget, checkpoint, hub

    given = hub.configuration(config.model.name, config.model.architecture)
    skeleton = checkpoint.build_from(given, config.model.dtype)
    quant = build(config.quant) if "_target_" in config.quant else None
    geometry, size = budget.sizes(skeleton, quant)
    lengths = (workload.prompt_tokens or 0, workload.new_tokens, workload.batch_size)
    held = (*lengths, setup.prefetcher.device_bytes if setup.prefetcher else 0, size)
    setup.memory.resolve(geometry, budget.needs(skeleton, geometry, *held))


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
    """Keep how often every expert was used: `cache=static cache.counts=FOLDER/counts.json`.

    And every neuron, where neurons were selected: `neurons.npy`.
    """
    from moex.trace.diagnostics import counts

    write_atomically(folder / "counts.json", json.dumps(counts(trace)) + "\n")
    if trace.rows is not None:
        import numpy as np

        from moex.trace.neurons import neuron_counts

        np.save(folder / "neurons.npy", neuron_counts(trace))


def accuracy(report: Report, config: Any, parts: Parts, build: Build) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. Only where misses
    are lossy does it: then the run's own cache and slots are used, decoding text by text from cold.
    With a neuron selector every token, of the prompt too, gets the mask that decoding would give
    it. Rows of a lossy configuration say how far they are from the exact model's on the same items,
    if those were measured before.
    """
    tasks = list(config.eval.tasks)
    if not tasks:
        return
    miss = build(config.miss)
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
        "dtype": str(parts.dtype),
        "quant": parts.quantized or dense,
        "sparsity": _sparsity(config, selector) if selector else dense,
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
    items: Items = {}
    from moex.cache.lru import LRU
    from moex.evals.stepwise import stepwise
    from moex.runner.assemble import fits, offload

    if miss.lossy:
        policy, memory = build(config.cache), Memory(**config.memory)
        lossy = offload(parts, policy, memory, seed=config.seed, miss=miss)
        with lossy as model, stepwise(model, lossy.empty):
            report.tasks = _evaluate(model, config, parts, limit, 1, items)
        _keep(kept, settings, report, items)
        return
    geometry = parts.geometry
    whole = geometry.layers * geometry.experts * geometry.expert_bytes
    memory = Memory(geometry.experts) if fits(whole, parts.device) else Memory(**config.memory)
    with offload(parts, LRU(), memory, selector=selector) as model:
        report.tasks = _evaluate(model, config, parts, limit, config.eval.batch_size, items)
    exact = kept.with_name(f"{key_of(settings | {'quant': dense, 'sparsity': dense})}.json")
    if exact != kept:
        _compare(report.tasks, items, exact)
    _keep(kept, settings, report, items)


def _evaluate(
    model: Any, config: Any, parts: Parts, limit: int, batch_size: int, items: Items
) -> list[Any]:
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
        items=items,
    )


def _keep(path: Path, settings: dict[str, Any], report: Report, items: Items) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {"settings": settings, "rows": report.tasks, "items": items}
    write_atomically(path, json.dumps(results, default=str))


def _sparsity(config: Any, selector: NeuronSelector) -> dict[str, Any]:
    """What decides the masks."""
    return {**config.sparsity, "prefill": "masked", "identity": selector.identity}


def _compare(rows: list[dict[str, Any]], items: Items, exact: Path) -> None:
    """Say in every row how far it is from the exact model's, where that is known."""
    if not exact.is_file():
        return
    from moex.evals.paired import differences

    theirs = json.loads(exact.read_text()).get("items", {})
    found = {(row["task"], row["metric"]): row for row in differences(items, theirs)}
    for row in rows:
        other = found.get((row["task"], row["metric"]))
        if other is not None:
            row["difference"], row["difference_stderr"] = other["difference"], other["stderr"]
