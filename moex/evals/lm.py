"""Scores a model with lm-eval: local tasks, tasks of the hub, several at once.

Whatever runs under it, an offloaded model included, is an ordinary transformers model here.
"""

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from moex.evals.items import checksum
from moex.evals.loss import loss_rows, mean_and_stderr, text_scores
from moex.evals.stepwise import refuse_single_pass
from moex.evals.tasks import LOCAL, LOSSES, PUBLISHED, task_config, task_documents
from moex.evals.worst import add_worst

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BOOTSTRAP_DRAWS = 1000


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: list[str],
    *,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    data_dir: str | Path | None = None,
    text_dir: str | Path | None = None,
    items: dict[str, dict[str, list[tuple[int, float]]]] | None = None,
    dense: Callable[[Any], Any] | None = None,
) -> list[dict[str, Any]]:
    """Score a model on tasks and return one row a metric: task, metric, value, stderr, n, checksum.

    Tasks made of parts (the phenomena of `moex_grammar`, the paradigms of `blimp_local`) add a row
    for each part, named `task/part`. `checksum` names the items exactly; `n` counts them. The
    losses `moex_loss` and `heldout_loss` are scored here, not by lm-eval.

    Args:
        model: a causal language model, on the device where it is to run.
        tokenizer: its tokenizer.
        tasks: names of local tasks (`moex.evals.tasks.LOCAL`) or of any task, group or tag of
            lm-eval, whose data come from the hub or its cache.
        limit: how many items of each task; by default all of them.
        batch_size: sequences in a batch.
        seed: draws the order of published choices, and the examples of few-shot tasks.
        data_dir: folder of the published items, for `*_local`.
        text_dir: folder of the held-out text, for `heldout_*`.
        items: is filled with every item's scores, for `moex.evals.paired`.
        dense: returns the logits of a text that losses are compared with, as KL; the model then
            makes one pass a token.

    Raises:
        ValueError: a task is not known, or its folder is not given; the model depends on residency
            and does not make one pass a token.
        RuntimeError: the data of a hub task cannot be had.
    """
    refuse_single_pass(model)
    folders = [None if folder is None else Path(folder) for folder in (data_dir, text_dir)]
    local = {name: task_documents(name, limit, seed, *folders) for name in tasks if name in LOCAL}
    rows = []
    for name in LOSSES:
        if name in local:
            scores = text_scores(model, tokenizer, local[name], batch_size, dense)
            rows += loss_rows(name, local[name], scores, tokenizer)
            if items is not None:
                items[name] = scores
    tasks = [name for name in tasks if name not in LOSSES]
    if not tasks:
        add_worst(rows)
        return rows
    with _quiet():
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        loaded = _load(tasks, local)
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(seed)
        results = evaluator.evaluate(
            lm, loaded, limit=limit, bootstrap_iters=BOOTSTRAP_DRAWS, log_samples=True
        )
    for name in results["results"]:
        samples = results["samples"].get(name, [])
        if name in local and "origin" in local[name][0]:
            found = _accuracies(name, samples)
        else:
            found = _reported(name, results["results"][name])
        if items is not None and samples:
            items[name] = _items(samples)
        digest = checksum(sample["doc"] for sample in samples) if samples else None
        rows += [row | {"checksum": digest} for row in found]
    add_worst(rows)
    return rows


def _items(samples: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """By metric: of every item, in order, its origin and its score; scores that are numbers."""
    found: dict[str, list[tuple[int, float]]] = {}
    for number, sample in enumerate(samples):
        origin = sample["doc"].get("origin", number)
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                found.setdefault(metric, []).append((origin, float(sample[metric])))
    return found


def _accuracies(name: str, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a local task: the whole, then its parts."""
    loaded: dict[str, list[dict[str, Any]]] = {name: samples}
    for sample in samples:
        if sample["doc"]["group"]:
            loaded.setdefault(f"{name}/{sample['doc']['group']}", []).append(sample)
    for part, members in loaded.items():
        for metric in samples[0]["metrics"]:
            value, stderr = mean_and_stderr(
                [sample[metric] for sample in members],
                [sample["doc"]["origin"] for sample in members],
            )
            yield {
                "task": part,
                "metric": metric,
                "value": value,
                "stderr": stderr,
                "n": len(members),
            }


def _reported(name: str, metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a task as lm-eval sums it up: its keys are `metric,filter`."""
    for key, value in metrics.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr"):
            continue
        stderr = metrics.get(f"{metric}_stderr,{chosen}")
        yield {
            "task": name,
            "metric": metric if chosen == "none" else key,
            "value": value,
            "stderr": stderr if isinstance(stderr, float) and math.isfinite(stderr) else None,
            "n": metrics["sample_len"],
        }


@cache
def _hub_tasks() -> TaskManager:
    """lm-eval's own index of fourteen thousand tasks: read once, and only when one is named."""
    return TaskManager()


def check_tasks(tasks: list[str]) -> None:
    """Refuse tasks that cannot be had, before anything is run for them.

    Raises:
        ValueError: neither local nor of lm-eval.
        RuntimeError: the data of a hub task cannot be had.
    """
    if hub := [name for name in tasks if name not in LOCAL]:
        with _quiet():
            _load(hub, {})


def _load(tasks: list[str], local: dict[str, list[dict[str, Any]]]) -> Any:
    hub = [name for name in tasks if name not in local]
    unknown = [name for name in hub if name not in _hub_tasks().all_tasks]
    if unknown:
        raise ValueError(
            f"eval.tasks: no task named {', '.join(map(repr, unknown))}: local tasks are "
            f"{', '.join(LOCAL)}; any task of lm-eval works by its name (`lm-eval ls tasks` lists "
            "them) and fetches its data from the hub once, after which it runs offline"
        )
    manager = _hub_tasks() if hub else TaskManager(include_defaults=False)
    try:
        return manager.load(
            [task_config(name, local[name]) if name in local else name for name in tasks]
        )
    except OSError as error:
        without = ", ".join(name for name in LOCAL if name not in PUBLISHED)
        raise RuntimeError(
            f"the data of {', '.join(hub)} are not in the hub's cache and the hub cannot be "
            f"reached ({type(error).__name__}): run once with a network and without "
            f"HF_HUB_OFFLINE, or take local tasks: {without}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval logs what it chooses, prints, and draws bars off a terminal too: keep errors only."""
    logger = logging.getLogger("lm_eval")
    level, before = logger.level, os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # its bootstrap would fork beside torch's threads
    with contextlib.ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        stack.callback(_restore, "DISABLE_MULTIPROC", before)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
