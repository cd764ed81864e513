"""Accuracy of the configured tasks, measured once per accuracy key, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.memory import Memory
from moex.modes.common import make_selector, plain
from moex.runs.atomic import write_atomically
from moex.runs.run_id import code_version, contents, folder_digest, key_of, sources

if TYPE_CHECKING:
    from moex.modes.common import Build
    from moex.runner.assemble import LoadedModel
    from moex.runs.report import Report
    from moex.sparsity.base import NeuronSelector

    Items = dict[str, dict[str, list[tuple[int, float]]]]


def check_tasks(config: Any) -> None:
    """Refuse tasks that cannot be had before a model is loaded or a workload is run.

    Raises:
        ValueError: an unknown task, or one whose folder is not given or holds something else.
        RuntimeError: the data of a hub task cannot be had.
    """
    from moex.evals.tasks import LOCAL, task_documents

    folders = [given and Path(given) for given in (config.eval.data_dir, config.eval.text_dir)]
    for name in set(LOCAL) & set(config.eval.tasks):
        task_documents(name, 1, config.seed, *folders)
    if not set(config.eval.tasks) <= set(LOCAL):  # lm-eval takes seconds to import
        from moex.evals.lm import check_tasks

        check_tasks(list(config.eval.tasks))


def accuracy(report: Report, config: Any, loaded: LoadedModel, build: Build) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. Only lossy misses
    change one: then the run's own cache and slots are used, decoding text by text from cold.
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
        bind_selector(loaded, selector)
        selector.prefill = "masked"
        report.prefill_masks = report.prefill_masks or "masked"
    dense = {"name": "none"}
    lossy = {group: plain(config[group]) for group in ("miss", "cache", "memory") if miss.lossy}
    settings = {
        "model": folder_digest(loaded.folder),
        "dtype": str(loaded.dtype),
        "device": loaded.device,
        "quant": loaded.quantized or dense,
        "sparsity": _sparsity(config, selector) if selector else dense,
        "miss": {**lossy, "sources": sources(lossy)} if lossy else {},
        "tasks": tasks,
        "limit": limit,
        "seed": config.seed,
        "items": [code_version("evals"), code_version("assets")],
        "code": [code_version(package) for package in ("quant", "sparsity", "miss")],
        "text_dir": config.eval.text_dir,
        "data_dir": config.eval.data_dir,
        "contents": contents({"eval": plain(config.eval), **lossy}),
    }
    report.accuracy_key = key_of(settings)
    kept = Path("results") / "accuracy" / f"{report.accuracy_key}.json"
    if kept.is_file() and not config.force:
        report.tasks = json.loads(kept.read_text())["rows"]
        return
    items: Items = {}
    from moex.cache.lru import LRU
    from moex.evals.stepwise import stepwise
    from moex.models.memory_needs import fits
    from moex.runner.assemble import Setup, offload

    if miss.lossy:
        policy, memory = build(config.cache), Memory(**config.memory)
        skipping = offload(loaded, Setup(policy, memory, seed=config.seed, miss=miss))
        with skipping as model, stepwise(model, skipping.empty):
            report.tasks = _evaluate(model, config, loaded, limit, 1, items)
        _keep(kept, settings, report, items)
        return
    geometry = loaded.geometry
    resident = fits(geometry.all_bytes, loaded.device)
    memory = Memory(geometry.experts) if resident else Memory(**config.memory)
    with offload(loaded, Setup(LRU(), memory, selector=selector)) as model:
        report.tasks = _evaluate(model, config, loaded, limit, config.eval.batch_size, items)
    exact = kept.with_name(f"{key_of(settings | {'quant': dense, 'sparsity': dense})}.json")
    if exact != kept:
        _compare(report.tasks, items, exact)
    _keep(kept, settings, report, items)


def _evaluate(
    model: Any, config: Any, loaded: LoadedModel, limit: int, batch_size: int, items: Items
) -> list[Any]:
    from moex.evals.lm import evaluate

    return evaluate(
        model,
        loaded.tokenizer(),
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
    write_atomically(path, json.dumps(results, default=str, allow_nan=False))


def _sparsity(config: Any, selector: NeuronSelector) -> dict[str, Any]:
    """What decides the masks."""
    written = sources(plain(config.sparsity))
    return {**config.sparsity, "prefill": "masked", "identity": selector.identity, **written}


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
