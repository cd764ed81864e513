"""Importer of traces stored as plain numpy arrays.

A folder holds, each as `.npy` or `.npy.xz`:

| file | shape | meaning |
|---|---|---|
| expert_ids | [tokens, layers, k] integers | chosen experts, best first |
| offsets | [sequences + 1] integers | sequence i is tokens `offsets[i]:offsets[i + 1]` |
| router_probs | [tokens, layers, k] floats, optional | router weights of the chosen experts |
| router_probs_bf16 | the same as the bits of bfloat16 in uint16, optional | likewise |

All tokens count as decoded one at a time, as such dumps are made.
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.importers.build import build, geometry_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.trace.format import Trace
    from moex.types import Geometry


def read(
    folder: str | Path,
    geometry: Geometry | None = None,
    scores: bool = False,
    sequences: int | None = None,
) -> Trace:
    """Read a folder of arrays.

    Args:
        folder: with the files listed in the module's docstring.
        geometry: of the model; default: what the ids imply, with experts of one byte.
        scores: whether to fill the trace's `scores` (tokens x layers x experts floats: large).
        sequences: number of sequences to read, from the first; default all.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the shapes of the arrays do not match.
    """
    folder = Path(folder)
    ids, offsets = _load(folder, "expert_ids"), _load(folder, "offsets")
    if ids.ndim != 3 or offsets.ndim != 1 or offsets[0] != 0 or offsets[-1] != len(ids):
        raise ValueError(
            f"trace={folder}: expert_ids {ids.shape} with offsets {offsets.shape} ending at "
            f"{offsets[-1]}: expected [tokens, layers, k] and offsets from 0 to tokens"
        )
    offsets = offsets[: None if sequences is None else sequences + 1]
    ids = ids[: offsets[-1]]
    lengths = np.diff(offsets)
    first = np.repeat(offsets[:-1], lengths)
    return build(
        ids,
        sequence=np.repeat(np.arange(len(lengths)), lengths),
        position=np.arange(len(ids)) - first,
        prefill=np.zeros(len(ids), np.bool_),
        geometry=geometry or geometry_of(ids),
        probabilities=_weights(folder)[: len(ids)] if scores else None,
        provenance={"imported": "arrays", "name": folder.name},
    )


def _weights(folder: Path) -> NDArray[np.float32]:
    if _find(folder, "router_probs_bf16"):
        bits = _load(folder, "router_probs_bf16").astype(np.uint32) << 16
        return bits.view(np.float32)
    return _load(folder, "router_probs").astype(np.float32)


def _find(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}.npy", folder / f"{name}.npy.xz")
    return next((path for path in paths if path.is_file()), None)


def _load(folder: Path, name: str) -> NDArray[Any]:
    path = _find(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"trace={folder}: no {name}.npy or {name}.npy.xz; expected a folder with expert_ids "
            "[tokens, layers, k] and offsets [sequences + 1]"
        )
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        array: NDArray[Any] = np.load(file)
    return array
