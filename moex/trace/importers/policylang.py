"""Importer of parquet traces of moe-policylang (checked against release 1.15.0).

One row a token and layer: `prompt_id`, `token_idx`, `layer_idx` (int32) and `selected_experts`
(list<int32>), optionally `router_scores`, `router_softmax` (list<float32>, the whole row) and
`phase` ("prefill" or "decode"); further columns are ignored. The file carries no model metadata:
experts are the softmax's length or the highest id, layers the highest layer, top-k the length of a
selection. Files of its oldest collectors, which hold the softmax only, are read with `top_k` given.

Without `phase` every token counts as decoded. `prompt_id`s are sequences.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.importers.build import build, geometry_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.trace.format import Trace

_NEEDED = ("prompt_id", "token_idx", "layer_idx")


def read(path: str | Path, top_k: int | None = None, expert_bytes: int = 1) -> Trace:
    """Read a trace; `router_softmax`, where present, fills `scores` for decoded tokens.

    Raises:
        ValueError: columns are missing, or tokens that do not visit every layer.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    table = pq.read_table(path)
    names = table.column_names
    missing = [name for name in _NEEDED if name not in names]
    if missing or not ({"selected_experts", "router_softmax"} & set(names)):
        raise ValueError(
            f"trace={path}: columns {', '.join(names)}; expected prompt_id, token_idx, layer_idx "
            "and selected_experts (or router_softmax with top_k given)"
        )
    prompt, token, layer = (table.column(name).to_numpy() for name in _NEEDED)
    order = np.lexsort((layer, token, prompt))
    layers = int(layer.max()) + 1
    if len(order) % layers or (layer[order].reshape(-1, layers) != np.arange(layers)).any():
        raise ValueError(f"trace={path}: expected every token in each of {layers} layers once")

    def per_token(name: str) -> NDArray[Any]:
        rows = np.asarray(table.column(name).to_pylist())[order]
        return rows.reshape(len(order) // layers, layers, *rows.shape[1:])

    softmax = per_token("router_softmax").astype(np.float32) if "router_softmax" in names else None
    if "selected_experts" in names:
        ids = per_token("selected_experts").astype(np.int64)
    else:
        if top_k is None:
            raise ValueError(f"trace={path}: holds no selected_experts; give top_k=K")
        assert softmax is not None
        ids = np.argsort(-softmax, axis=2, kind="stable")[:, :, :top_k]
    decoded = per_token("phase")[:, 0] != "prefill" if "phase" in names else np.ones(len(ids), bool)
    trace = build(
        ids,
        sequence=prompt[order][::layers],
        position=token[order][::layers],
        prefill=~decoded,
        geometry=geometry_of(ids, None if softmax is None else softmax.shape[2], expert_bytes),
        provenance={"imported": "moe-policylang", "name": path.name},
    )
    if softmax is not None and decoded.all():
        trace.scores = softmax.reshape(len(trace), -1)
    return trace
