"""Makes a trace of per-token expert ids; shared by the importers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.format import Trace
from moex.types import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray


def geometry_of(ids: NDArray[Any], experts: int | None = None, expert_bytes: int = 1) -> Geometry:
    """Return the geometry that ids [tokens, layers, k] imply.

    `experts=None` takes the highest id that occurs; the model's widths are unknown (0). With
    `expert_bytes=1` every byte figure of a replay counts whole experts.
    """
    _, layers, top_k = ids.shape
    if experts is None:
        experts = int(ids.max()) + 1 if ids.size else top_k
    return Geometry(layers, experts, top_k, 0, 0, expert_bytes)


def passes_of(sequence: NDArray[Any], prefill: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each token's forward pass [tokens]: one pass a prompt, then one a token."""
    new = np.ones(len(sequence), np.bool_)
    new[1:] = ~(prefill[1:] & prefill[:-1]) | (sequence[1:] != sequence[:-1])
    return np.cumsum(new) - 1


def build(
    ids: NDArray[Any],
    sequence: NDArray[Any],
    position: NDArray[Any],
    prefill: NDArray[np.bool_],
    geometry: Geometry,
    passes: NDArray[np.int64] | None = None,
    probabilities: NDArray[np.float32] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Trace:
    """Return the trace of a run in which the tokens were computed in the given order.

    Args:
        ids: expert ids [tokens, layers, k], best first.
        sequence: of each token [tokens].
        position: of each token in its sequence [tokens].
        prefill: whether the token belongs to a prompt [tokens].
        geometry: of the model.
        passes: number of each token's forward pass, rising [tokens]; default `passes_of`.
        probabilities: router weights of the chosen experts [tokens, layers, k]; they fill the
            `scores` column, in which experts that were not chosen have 0.
        provenance: where the trace comes from.

    Raises:
        ValueError: columns of different lengths, or an expert id out of range.
    """
    tokens, layers, _ = ids.shape
    if not len(sequence) == len(position) == len(prefill) == tokens:
        raise ValueError(
            f"trace: ids of {tokens} tokens, but {len(sequence)} sequences, {len(position)} "
            f"positions and {len(prefill)} phases: expected one of each per token"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < geometry.experts:
        raise ValueError(
            f"trace: expert ids {ids.min()} to {ids.max()}, expected 0 to {geometry.experts - 1}; "
            "give the model's number of experts"
        )
    passes = passes_of(sequence, prefill) if passes is None else passes
    starts = np.flatnonzero(np.diff(passes, prepend=-1)) if tokens else np.zeros(0, np.int64)
    experts, counts = _demands(ids, starts)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])

    def visits(column: NDArray[Any], kind: Any) -> NDArray[Any]:
        return np.repeat(column[starts].astype(kind), layers)

    return Trace(
        geometry=geometry,
        sequence=visits(sequence, np.int32),
        position=visits(position, np.int32),
        layer=np.tile(np.arange(layers, dtype=np.int16), len(starts)),
        prefill=visits(prefill, np.bool_),
        experts=experts,
        offsets=offsets,
        scores=None if probabilities is None else _scores(ids, starts, probabilities, geometry),
        provenance=provenance or {},
    )


def _demands(
    ids: NDArray[Any], starts: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return the distinct experts of every visit in order of first use, flat, and counts."""
    tokens, layers, top_k = ids.shape
    stops = np.append(starts[1:], tokens)
    single = stops - starts == 1
    ordered = np.sort(ids, axis=2)
    distinct = tokens == 0 or top_k == 1 or bool((np.diff(ordered, axis=2) > 0).all())
    if distinct and single.all():
        return ids.reshape(-1).astype(np.uint16), np.full(tokens * layers, top_k, np.int64)
    flat: list[int] = []
    counts: list[int] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        for layer in range(layers):
            demanded = dict.fromkeys(ids[start:stop, layer].ravel().tolist())
            flat.extend(demanded)
            counts.append(len(demanded))
    return np.asarray(flat, np.uint16), np.asarray(counts, np.int64)


def _scores(
    ids: NDArray[Any], starts: NDArray[np.int64], weights: NDArray[np.float32], geometry: Geometry
) -> NDArray[np.float32]:
    tokens, layers, _ = ids.shape
    rows = np.zeros((tokens, layers, geometry.experts), np.float32)
    np.put_along_axis(rows, ids.astype(np.int64), weights.astype(np.float32), axis=2)
    summed: NDArray[np.float32] = np.add.reduceat(rows, starts, axis=0) if tokens else rows
    return summed.reshape(-1, geometry.experts)
