"""The geometry of a model by its name: shapes of `conf/model/`, or of a folder's config.json."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from moex.paths import CONF, downloaded_folder, model_folder
from moex.types import Geometry

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = ("moe_intermediate_size", "intermediate_size")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k")


def model_geometry(model: str, bits: float | None = None) -> Geometry:
    """Return the geometry of a model: MoE layers, experts, top-k, widths and bytes of an expert.

    An expert's bytes are those of gate, up and down projection, biases left out.

    Args:
        model: a file's name in `conf/model/`, a folder, or a hub repository in the hub's cache.
        bits: of a weight, scales included; default those of the checkpoint.

    Raises:
        ValueError: no such model, one without these sizes, or bits that cannot be.
    """
    given = _settings(model)
    hidden, layers = (
        _first(given, (name,), model) for name in ("hidden_size", "num_hidden_layers")
    )
    width = _first(given, WIDTHS, model)
    known = {"float32": 32, "float8_e4m3fn": 8}
    stored = known.get(str(given.get("dtype") or given.get("torch_dtype")), 16)
    bits = stored if bits is None else bits
    if not 0 < bits <= 32:
        raise ValueError(
            f"bits={bits}: expected bits of a weight, above 0, at most 32; try bits=4.5"
        )
    size = int(3 * hidden * width * bits / 8)
    experts, top_k = (_first(given, names, model) for names in (EXPERTS, TOP_K))
    return Geometry(layers - _dense(given, layers), experts, top_k, hidden, width, size)


def _dense(given: dict[str, Any], layers: int) -> int:
    """How many layers have no experts."""
    step = given.get("decoder_sparse_step") or 1
    first = given.get("first_k_dense_replace") or 0
    dense = {n for n in range(layers) if n < first or (n + 1) % step}
    return len(dense | {*(given.get("mlp_only_layers") or ())})


def _first(given: dict[str, Any], names: tuple[str, ...], model: str) -> int:
    for name in names:
        if isinstance(given.get(name), int):
            return int(given[name])
    raise ValueError(
        f"model={model}: its settings have no {' or '.join(names)}; expected a Mixture-of-Experts "
        "model; try model=mixtral_8x7b"
    )


def _settings(model: str) -> dict[str, Any]:
    named = CONF / "model" / f"{model}.yaml"
    if named.is_file():
        import yaml

        settings: dict[str, Any] = yaml.safe_load(named.read_text())
        if settings["architecture"]:
            return dict(settings["architecture"])
        model = settings["name"]
    folder: Path | None = model_folder(model) or downloaded_folder(model)
    if folder is not None and (folder / "config.json").is_file():
        read: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return read | (read.get("text_config") or {})
    known = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "hf")
    near = difflib.get_close_matches(model, known, n=1) or ["mixtral_8x7b"]
    raise ValueError(
        f"model={model}: its shapes are not known; expected one of {', '.join(known)}, or a folder "
        f"with a config.json; try model={near[0]}"
    )
