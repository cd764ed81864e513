"""`mode=train`: train a predictor on text that the model reads."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.modes.common import set_threads
from moex.predictors import trained
from moex.runs.provenance import provenance
from moex.runs.report import Report
from moex.runs.run_id import code_version, key_of

if TYPE_CHECKING:
    from torch import Tensor

    from moex.modes.run import Run
    from moex.runner.assemble import LoadedModel

EXPERTS = ("mlp", "linear", "gate_resid")
KINDS = (*EXPERTS, "corm")
CALIBRATION_BATCHES = 4


def run(run: Run, folder: Path) -> Report:
    """Train the predictor that `prefetch` names; write its checkpoint."""
    from dataclasses import replace

    from moex.models.loader import load_model
    from moex.train.data import LEAST_TOKENS, corpus

    kind = type(run.prefetch).__module__.rpartition(".")[2]
    if kind not in KINDS:
        raise ValueError(
            f"prefetch={kind}: has nothing to train; expected one of {', '.join(KINDS)}; "
            "try mode=train prefetch=mlp"
        )
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
        tensors, about, rows = _train(kind, loaded, text, recipe, folder, run.seed)
        about |= {
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
    report = Report(source="live", mode="train", tasks=_tasks(kind, rows))
    own = "" if not recipe.out else f" prefetch.checkpoint={path}"
    report.bottleneck = (
        f"predictor written: {done.path} ({done.identity}); use it with: prefetch={kind}{own}"
    )
    return report


def _train(
    kind: str, loaded: LoadedModel, text: Any, recipe: Any, folder: Path, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    """Tensors, what is known of them, and their quality on held-out documents."""
    import torch

    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.models.memory_needs import fits
    from moex.runner.assemble import Setup, offload
    from moex.train import experts, fit, neurons, quality
    from moex.train.activations import contributions, factors_of, read

    geometry = loaded.geometry
    routers = [_router(layer, geometry) for layer in loaded.layers]
    trainer: Any
    if kind == "gate_resid":
        trainer = experts.ResidTrainer(geometry, routers, recipe, seed)
    elif kind in EXPERTS:
        width = 0 if kind == "linear" else recipe.width
        trainer = experts.ExpertTrainer(geometry, routers, recipe, seed, width)
    else:
        trainer = neurons.NeuronTrainer(
            geometry, lambda layer: factors_of(loaded, layer), recipe, seed
        )
    resident = fits(geometry.all_bytes, loaded.device)
    memory = Memory(geometry.experts) if resident else Memory()
    named = key_of({**asdict(recipe), "text": text.count, "seed": seed, "code": code_version()})
    valid = max(1, -(-recipe.valid_tokens // (recipe.batch * text.context)))
    with offload(loaded, Setup(LRU(), memory)) as model:

        def see(windows: Tensor) -> Any:
            return read(model, loaded.layers, windows)

        fit.fit(trainer, text, see, recipe, folder / "training.pt", named)
        held_out = [
            see(torch.from_numpy(text.batch(number, recipe.batch, held_out=True)))
            for number in range(valid)
        ]
        if kind in EXPERTS:
            batches = [(seen, recipe.batch) for seen in held_out]
            rows = quality.of_experts(trainer, routers, batches)
            about = {"width": trainer.width, "horizon": recipe.horizon}
        else:
            calibration = [
                see(torch.from_numpy(text.batch(number, recipe.batch)))
                for number in range(CALIBRATION_BATCHES)
            ]
            quality.calibrate(trainer.modules, calibration)
            rows = quality.of_neurons(
                trainer.modules, lambda *which: contributions(loaded, *which), held_out
            )
            about = {"width": recipe.width, "rank": recipe.rank}
    state = trainer.modules.state_dict()
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    return tensors, about, rows


def _router(layer: Any, geometry: Any) -> tuple[Tensor, Tensor]:
    """A router's weight and bias; zeros for what it has not, to start from nothing."""
    import torch

    def of(name: str, *shape: int) -> Tensor:
        found = getattr(layer.router, name, None)
        if found is None or tuple(found.shape) != shape:
            return torch.zeros(shape)
        return found.detach().float().cpu()

    return of("weight", geometry.experts, geometry.hidden), of("bias", geometry.experts)


def _tasks(kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over layers, as rows of accuracy."""
    found: dict[tuple[str, str], list[float]] = {}
    if kind in EXPERTS:
        least = min(row["named"] for row in rows)
        for row in sorted(rows, key=lambda row: row["horizon"]):
            for name, prefix in ((kind, ""), ("gate", "gate_")) if row["named"] == least else ():
                task = f"{name}_horizon{row['horizon']}", f"recall@{least}"
                found.setdefault(task, []).append(row[f"{prefix}recall"])
    else:
        for row in rows:
            for name in ("neuron_recall", "energy_recall"):
                found.setdefault((f"corm_{row['way']}_{name}", name), []).append(row[name])
    return [
        {
            "task": task,
            "metric": metric,
            "value": sum(values) / len(values),
            "stderr": None,
            "n": len(values),
        }
        for (task, metric), values in found.items()
    ]
