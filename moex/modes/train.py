"""`mode=train`: train a predictor on text that the model reads, or on a recorded trace."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.modes.common import set_threads
from moex.paths import plug_in, trace_files
from moex.predictors import trained
from moex.runs.provenance import provenance
from moex.runs.report import Report

if TYPE_CHECKING:
    from torch import Tensor

    from moex.modes.run import Run
    from moex.train.fit import Row, Tasks, Trainer
    from moex.train.recipe import Recipe

    Trained = tuple[trained.Checkpoint, list[Row], Tasks]


def run(run: Run, folder: Path) -> Report:
    """Train the predictor that `prefetch` names; write its checkpoint."""
    part = type(run.prefetch)
    kind = trained.kind_of(part)
    if not part.trainer:
        raise ValueError(
            f"prefetch={kind}: has nothing to train; expected a prefetcher with a trainer; "
            "try mode=train prefetch=mlp"
        )
    made = plug_in("prefetch.trainer", part.trainer, "train", "Trainer")
    recipe = run.train
    if run.smoke:
        recipe = replace(recipe, tokens=2, batch=1, valid_tokens=1)
    set_threads(run)
    fitted = _from_trace if made.reads == "trace" else _from_text
    done, rows, tasks = fitted(run, folder, kind, made, recipe)
    (folder / "training.pt").unlink(missing_ok=True)
    (folder / "quality.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    report = Report(source="live", mode="train", tasks=_tasks(tasks))
    own = f" prefetch.checkpoint={done.path}" if recipe.out or made.reads == "trace" else ""
    report.bottleneck = (
        f"predictor written: {done.path} ({done.identity}); use it with: prefetch={kind}{own}"
    )
    return report


def _from_text(run: Run, folder: Path, kind: str, made: Any, recipe: Recipe) -> Trained:
    """Train on text that the model reads."""
    from moex.models.loader import load_model
    from moex.train.data import LEAST_TOKENS, corpus
    from moex.train.fit import reading, train

    if run.quant is not None:
        raise ValueError("mode=train: predictors learn from the model as it is; try quant=none")
    model = run.model
    loaded = load_model(model.name, model.dtype, model.device, "ram", run.cache_dir)
    with closing(loaded.store):
        context = min(recipe.context, loaded.model.config.max_position_embeddings)
        most = max(4 * recipe.tokens, 10 * LEAST_TOKENS)
        text = corpus(recipe.text, loaded.tokenizer(), folder, context, most, run.seed)
        started = time.process_time()
        trainer = made.of(loaded, recipe, run.seed)
        with reading(loaded) as see:
            rows, tasks = train(kind, trainer, text, see, recipe, folder)
        source = {"name": text.source, "documents": len(text.starts), "tokens": text.count}
        about = _about(trainer, recipe, run.seed, started, rows) | {"text": source}
        path = Path(recipe.out) if recipe.out else trained.own_path(kind, loaded.folder)
        tensors = _halves(trainer)
        done = trained.write(path, kind, tensors, loaded.geometry, loaded.folder, about)
    return done, rows, tasks


def _from_trace(run: Run, folder: Path, kind: str, made: Any, recipe: Recipe) -> Trained:
    """Train on recorded routing, without a model; the checkpoint suits any of that geometry."""
    from moex.api import Trace, open_trace
    from moex.train.fit import train
    from moex.train.history import Passes

    if not run.trace:
        raise ValueError(
            f"trace=null: prefetch={kind} is trained on a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace = open_trace(run.trace, in_memory=sys.maxsize)
    assert isinstance(trace, Trace)
    named = ", ".join(path.name for path in trace_files(run.trace))
    passes = Passes(trace, recipe.context, named, run.seed)
    started = time.process_time()
    trainer = made.of(trace, recipe, run.seed)
    rows, tasks = train(kind, trainer, passes, passes.see, recipe, folder)
    source = {"name": named, "passes": len(passes.starts)}
    about = _about(trainer, recipe, run.seed, started, rows) | {"trace": source}
    path = Path(recipe.out) if recipe.out else folder / f"{kind}.safetensors"
    return trained.write(path, kind, _halves(trainer), trace.geometry, None, about), rows, tasks


def _about(
    trainer: Trainer, recipe: Recipe, seed: int, started: float, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a checkpoint's header says of its making."""
    return {
        **trainer.about,
        "recipe": {n: v for n, v in asdict(recipe).items() if n not in ("text", "out")},
        "seed": seed,
        "cpu_s": round(time.process_time() - started),
        "metrics": rows,
        **provenance(),
    }


def _halves(trainer: Trainer) -> dict[str, Tensor]:
    """The tensors of a checkpoint, floats in 16 bits."""
    state = trainer.modules.state_dict()
    return {n: t.half() if t.is_floating_point() else t for n, t in state.items()}


def _tasks(groups: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """Means over layers, as rows of accuracy."""
    return [
        {
            "task": task,
            "metric": metric,
            "value": sum(values) / len(values),
            "stderr": None,
            "n": len(values),
        }
        for (task, metric), values in groups.items()
        if values
    ]
