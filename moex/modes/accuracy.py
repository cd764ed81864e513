"""Accuracy of the configured tasks, measured once per accuracy key, and kept."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.runs.atomic import write_atomically
from moex.runs.run_id import code_version, contents, folder_digest, key_of, sources

if TYPE_CHECKING:
    from moex.modes.run import Run
    from moex.runner.assemble import LoadedModel
    from moex.runs.report import Report

    Items = dict[str, dict[str, list[tuple[int, float]]]]


def check_tasks(run: Run) -> None:
    """Refuse tasks that cannot be had before a model is loaded or a workload is run.

    Raises:
        ValueError: an unknown task, or one whose folder is not given or holds something else.
        RuntimeError: the data of a hub task cannot be had.
    """
    from moex.evals.tasks import LOCAL, task_documents

    folders = [Path(given) if given else None for given in (run.eval.data_dir, run.eval.text_dir)]
    for name in set(LOCAL) & set(run.eval.tasks):
        task_documents(name, 1, run.seed, *folders)
    if not set(run.eval.tasks) <= set(LOCAL):  # lm-eval takes seconds to import
        from moex.evals.lm import check_tasks

        check_tasks(run.eval.tasks)


def accuracy(report: Report, run: Run, loaded: LoadedModel) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit. Only lossy misses
    change one: then the run's own cache and slots are used, decoding text by text from cold.
    With a neuron selector every token, of the prompt too, gets the mask that decoding would give
    it. Rows of a lossy configuration say how far they are from the exact model's on the same items,
    if those were measured before.
    """
    if not run.eval.tasks:
        return
    from moex.runner.assemble import bind_selector

    masks = dense = {"name": "none"}
    limit, miss = 4 if run.smoke else run.eval.limit, run.miss
    selector = run.make("sparsity") if run.selects else None  # the run's own keeps its prefill
    if selector is not None:
        bind_selector(loaded, selector)
        selector.prefill = "masked"
        report.prefill_masks = report.prefill_masks or "masked"
        asked = run.settings["sparsity"]
        masks = {**asked, "prefill": "masked", "identity": selector.identity, **sources(asked)}
    lossy = {group: run.settings[group] for group in ("miss", "cache", "memory") if miss.lossy}
    settings = {
        "model": folder_digest(loaded.folder),
        "dtype": str(loaded.dtype),
        "device": loaded.device,
        "quant": loaded.quantized or dense,
        "sparsity": masks,
        "miss": {**lossy, "sources": sources(lossy)} if lossy else {},
        "tasks": run.eval.tasks,
        "limit": limit,
        "seed": run.seed,
        "items": [code_version("evals"), code_version("assets")],
        "code": [code_version(package) for package in ("quant", "sparsity", "miss")],
        "text_dir": run.eval.text_dir,
        "data_dir": run.eval.data_dir,
        "contents": contents({"eval": run.settings["eval"], **lossy}),
    }
    report.accuracy_key = key_of(settings)
    kept = Path("results") / "accuracy" / f"{report.accuracy_key}.json"
    if kept.is_file() and not run.force:
        report.tasks = json.loads(kept.read_text())["rows"]
        return
    items: Items = {}
    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.evals.lm import evaluate
    from moex.evals.stepwise import stepwise
    from moex.models.memory_needs import fits
    from moex.runner.assemble import Setup, offload

    geometry, batch_size = loaded.geometry, 1 if miss.lossy else run.eval.batch_size
    if miss.lossy:
        setup = Setup(run.cache, run.memory, seed=run.seed, miss=miss)
    else:
        resident = fits(geometry.all_bytes, loaded.device)
        memory = Memory(geometry.experts) if resident else run.memory
        setup = Setup(LRU(), memory, selector=selector)
    offloaded = offload(loaded, setup)
    with offloaded as model, stepwise(model, offloaded.empty) if miss.lossy else nullcontext():
        report.tasks = evaluate(
            model,
            loaded.tokenizer(),
            run.eval.tasks,
            limit=limit,
            batch_size=batch_size,
            seed=run.seed,
            data_dir=run.eval.data_dir,
            text_dir=run.eval.text_dir,
            items=items,
        )
    exact = kept.with_name(f"{key_of(settings | {'quant': dense, 'sparsity': dense})}.json")
    if exact != kept and not miss.lossy:
        _compare(report.tasks, items, exact)
    kept.parent.mkdir(parents=True, exist_ok=True)
    results = {"settings": settings, "rows": report.tasks, "items": items}
    write_atomically(kept, json.dumps(results, default=str, allow_nan=False))


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
