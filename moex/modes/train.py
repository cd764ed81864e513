"""`mode=train`: train a predictor on text that the model reads."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.modes.common import set_threads
from moex.paths import plug_in
from moex.predictors import trained
from moex.runs.provenance import provenance
from moex.runs.report import Report

if TYPE_CHECKING:
    from moex.modes.run import Run


def run(run: Run, folder: Path) -> Report:
    """Train the predictor that `prefetch` names; write its checkpoint."""
    from dataclasses import replace

    from moex.models.loader import load_model
    from moex.train.data import LEAST_TOKENS, corpus
    from moex.train.fit import train

    part = type(run.prefetch)
    kind = trained.kind_of(part)
    if not part.trainer:
        raise ValueError(
            f"prefetch={kind}: has nothing to train; expected a prefetcher with a trainer; "
            "try mode=train prefetch=mlp"
        )
    made = plug_in("prefetch.trainer", part.trainer, "train", "Trainer")
    recipe, origin = run.train, provenance()
    if run.smoke:
        recipe = replace(recipe, tokens=2, batch=1, valid_tokens=1)
    if run.quant is not None:
        raise ValueError("mode=train: predictors learn from the model as it is; try quant=none")
    set_threads(run)
    model = run.model
    loaded = load_model(model.name, model.dtype, model.device, "ram", run.cache_dir)
    with closing(loaded.store):
        context = min(recipe.context, loaded.model.config.max_position_embeddings)
        most = max(4 * recipe.tokens, 10 * LEAST_TOKENS)
        text = corpus(recipe.text, loaded.tokenizer(), folder, context, most, run.seed)
        started = time.process_time()
        trainer = made.of(loaded, recipe, run.seed)
        rows, tasks = train(kind, trainer, loaded, text, recipe, folder)
        state = trainer.modules.state_dict()
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
        about = {
            **trainer.about,
            "recipe": {n: v for n, v in asdict(recipe).items() if n not in ("text", "out")},
            "text": {"name": text.source, "documents": len(text.starts), "tokens": text.count},
            "seed": run.seed,
            "cpu_s": round(time.process_time() - started),
            "metrics": rows,
            **origin,
        }
        path = Path(recipe.out) if recipe.out else trained.own_path(kind, loaded.folder)
        done = trained.write(path, kind, tensors, loaded.geometry, loaded.folder, about)
    (folder / "training.pt").unlink(missing_ok=True)
    (folder / "quality.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    report = Report(source="live", mode="train", tasks=_tasks(tasks))
    own = "" if not recipe.out else f" prefetch.checkpoint={path}"
    report.bottleneck = (
        f"predictor written: {done.path} ({done.identity}); use it with: prefetch={kind}{own}"
    )
    return report


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
