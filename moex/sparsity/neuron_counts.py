"""Counts of how often every neuron was selected, from traces; stored in one array file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moex.runs.atomic import atomic_write
from moex.types import Expert

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream
    from moex.types import Geometry


def neuron_counts(trace: Trace | TraceStream) -> NDArray[np.uint32]:
    """Return how many visits selected each neuron [layers, experts, intermediate].

    Visits that used all rows of an expert (usually prompts) are not counted.
    """
    geometry = trace.geometry
    counts = np.zeros((geometry.layers, geometry.experts, geometry.intermediate), np.uint32)
    for chunk in trace.chunks():
        _count(chunk, counts)
    return counts


def _count(chunk: Trace, counts: NDArray[np.uint32]) -> None:
    """Add the visits of a chunk to the counts."""
    experts, offsets = chunk.experts, chunk.offsets
    for visit, rows in enumerate(chunk.rows or ()):
        for index, bits in zip(experts[offsets[visit] : offsets[visit + 1]], rows, strict=True):
            if bits is not None:
                unpacked = np.unpackbits(
                    np.frombuffer(bits, np.uint8),
                    count=chunk.geometry.intermediate,
                    bitorder="little",
                )
                counts[chunk.layer[visit], index] += unpacked


def write_neurons(counts: NDArray[np.uint32], path: Path) -> None:
    """Write counts atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, counts)


def read_counts(path: str | Path | None, geometry: Geometry, group: str) -> NDArray[np.uint32]:
    """Read counts as a run with a selector writes them: `results/<run_id>/neurons.npy`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no path, not an array of counts, or of another geometry.
    """
    make = "run once with sparsity=oracle (or another), then use its results/<run_id>/neurons.npy"
    if not path:
        raise ValueError(f"{group}=null: expected a file of how often neurons are selected; {make}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{group}={path}: no such file; {make}")
    try:
        counts = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{group}={path}: is not an array of counts ({error}); {make}") from error
    shape = (geometry.layers, geometry.experts, geometry.intermediate)
    if counts.shape != shape:
        raise ValueError(
            f"{group}={path}: holds counts [layers, experts, neurons] of shape "
            f"{list(counts.shape)}; expected {list(shape)}, of this model; {make}"
        )
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"{group}={path}: holds {counts.dtype} that are not counts; expected whole numbers, "
            f"0 or more; {make}"
        )
    return counts


def hottest(counts: NDArray[np.uint32], number: int) -> dict[Expert, int]:
    """Return the `number` most selected neurons of every expert (count > 0), as bitmaps."""
    order = np.argsort(-counts.astype(np.int64), axis=-1, kind="stable")[..., :number]
    found = {}
    for layer, index in np.ndindex(counts.shape[:2]):
        rows = [row for row in order[layer, index].tolist() if counts[layer, index, row]]
        found[Expert(layer, index)] = sum(1 << row for row in rows)
    return found
