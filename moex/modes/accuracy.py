"""Accuracy of the configured tasks, measured once per accuracy key, and kept."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.runs.atomic import write_atomically
from moex.runs.run_id import code_version, contents, folder_digest, key_of, sources
from moex.types import DECODE

if TYPE_CHECKING:
    from moex.modes.run import Run
    from moex.runner.assemble import LoadedModel
    from moex.runs.report import Report
    from moex.sparsity.base import NeuronSelector

    Items = dict[str, dict[str, list[tuple[int, float]]]]


DENSE: dict[str, Any] = {"name": "none"}
EXACT: dict[str, Any] = {
    "quant": DENSE,
    "sparsity": DENSE,
    "routing": {},
    "residency": [],
    "stepwise": False,
}
"""What the key of the exact model has in these places."""


def check_tasks(run: Run) -> None:
    """Refuse tasks that cannot be had before a model is loaded or a workload is run.

    Raises:
        ValueError: an unknown task, or one whose folder is not given or holds something else; a
            single pass for what depends on residency.
        RuntimeError: the data of a hub task cannot be had.
    """
    from moex.evals.tasks import LOCAL, task_documents

    if run.eval.tasks and run.eval.stepwise == "never" and run.residency_dependent:
        raise ValueError(
            "eval.stepwise=never: what is computed depends on what is resident, and one pass over "
            "a text fetches every expert, so that it would score as lossless; expected token by "
            "token; try eval.stepwise=auto"
        )
    folders = [Path(given) if given else None for given in (run.eval.data_dir, run.eval.text_dir)]
    for name in set(LOCAL) & set(run.eval.tasks):
        task_documents(name, 1, run.seed, *folders)
    if not set(run.eval.tasks) <= set(LOCAL):  # lm-eval takes seconds to import
        from moex.evals.lm import check_tasks

        check_tasks(run.eval.tasks)


def accuracy(report: Report, run: Run, loaded: LoadedModel) -> None:
    """Fill in the accuracy of the configured tasks, measured once per accuracy key.

    All experts stay resident if memory allows: caching never changes a logit, and one pass scores a
    text. Where logits depend on residency (lossy misses, some routing policies) texts are fed token
    by token, contexts too, one at a time, through the run's own cache, slots, prefetcher and reset
    rule, which then are in the key; the order of items follows from tasks, limit and seed.
    With a neuron selector every token, of the prompt too, gets the mask that decoding would give
    it. Rows of a lossy configuration say how far they are from the exact model's on the same items,
    if those were measured before.
    """
    if not run.eval.tasks:
        return
    selector = _masks(run, loaded)
    if selector is not None:
        report.prefill_masks = report.prefill_masks or "masked"
    key = _key(run, loaded, selector)
    report.accuracy_key = key_of(key)
    kept = Path("results") / "accuracy" / f"{report.accuracy_key}.json"
    if kept.is_file() and not run.force:
        found = json.loads(kept.read_text())
        report.tasks = found["rows"]
    else:
        found = _measured(run, loaded, selector)
        report.tasks = found["rows"]
        exact = kept.with_name(f"{key_of(key | EXACT)}.json")
        if exact != kept:
            _compare(report.tasks, found["items"], exact)
        kept.parent.mkdir(parents=True, exist_ok=True)
        results = {"settings": key, **found}
        write_atomically(kept, json.dumps(results, default=str, allow_nan=False))
    rates = found.get("rates", {}).items()
    report.fill(**{name: rate for name, rate in rates if getattr(report, name) is None})


def _masks(run: Run, loaded: LoadedModel) -> NeuronSelector | None:
    """The neuron selector with masks in prefill, too; the run's own keeps its prefill."""
    from moex.runner.assemble import bind_selector

    if not run.selects:
        return None
    selector: NeuronSelector = run.make("sparsity")
    bind_selector(loaded, selector)
    selector.prefill = "masked"
    return selector


def _key(run: Run, loaded: LoadedModel, selector: NeuronSelector | None) -> dict[str, Any]:
    """All that touches accuracy."""
    masks: dict[str, Any] = DENSE
    if selector is not None:
        asked = run.settings["sparsity"]
        masks = {**asked, "prefill": "masked", "identity": selector.identity, **sources(asked)}
    groups = ["routing"] if run.routing is not None else []
    if run.residency_dependent:
        groups += ["miss", "cache", "memory", "prefetch"]
    lossy = {group: run.settings[group] for group in groups}
    if lossy:
        lossy |= {"sources": sources(lossy), "contents": contents(lossy)}
    rules = [loaded.store.name, run.eval.cold]
    rules += [code_version(package) for package in ("cache", "prefetch", "decisions")]
    return {
        "model": folder_digest(loaded.folder),
        "dtype": str(loaded.dtype),
        "device": loaded.device,
        "quant": loaded.quantized or DENSE,
        "sparsity": masks,
        "routing": lossy,
        "residency": rules if run.residency_dependent else [],
        "stepwise": _stepwise(run),
        "tasks": run.eval.tasks,
        "limit": _limit(run),
        "seed": run.seed,
        "items": [code_version("evals"), code_version("assets")],
        "code": [code_version(package) for package in ("quant", "sparsity", "miss", "routing")],
        "text_dir": run.eval.text_dir,
        "data_dir": run.eval.data_dir,
        "contents": contents({"eval": run.settings["eval"]}),
    }


def _limit(run: Run) -> int | None:
    return 4 if run.smoke else run.eval.limit


def _stepwise(run: Run) -> bool:
    """Whether texts are fed token by token."""
    if run.eval.stepwise == "auto":
        return run.residency_dependent
    return run.eval.stepwise == "always"


def _measured(run: Run, loaded: LoadedModel, selector: NeuronSelector | None) -> dict[str, Any]:
    """Score the model: `rows`, `items` and the `rates` of swaps."""
    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.evals.dense import DenseLogits
    from moex.evals.lm import evaluate
    from moex.evals.stepwise import stepwise
    from moex.models.memory_needs import fits
    from moex.runner.assemble import Setup, offload
    from moex.runs.measured import bits_demanded

    geometry, steps = loaded.geometry, _stepwise(run)
    resident = fits(geometry.all_bytes, loaded.device)
    plain = Setup(LRU(), Memory(geometry.experts) if resident else run.memory, selector=selector)
    setup = replace(plain, routing=run.routing)
    if run.residency_dependent:
        prefetcher = run.make("prefetch")
        chosen = run.cache, run.memory, prefetcher, None, run.seed, run.miss, selector
        setup = Setup(*chosen, run.governor, run.routing)
    items: Items = {}
    with ExitStack() as stack:
        offloaded = offload(loaded, setup)
        offloaded.recorder.keeps_router = False
        model, dense = stack.enter_context(offloaded), None
        if steps:
            cold = run.eval.cold and run.residency_dependent
            stack.enter_context(stepwise(model, offloaded.empty if cold else None))
        if steps and setup != plain:
            beside = stack.enter_context(closing(offload(loaded, plain)))
            dense = DenseLogits(model, beside)
        rows = evaluate(
            model,
            loaded.tokenizer(),
            run.eval.tasks,
            limit=_limit(run),
            batch_size=1 if steps else run.eval.batch_size,
            seed=run.seed,
            data_dir=run.eval.data_dir,
            text_dir=run.eval.text_dir,
            items=items,
            dense=dense,
        )
        bits = bits_demanded(offloaded.cache_stats.phases[DECODE], geometry)
        rates = offloaded.journal.swaps.rates | {"bits_demanded": bits}
        return {"rows": rows, "items": items, "rates": rates}


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
