"""Importer of CSV files of llama.cpp's example `moe-trace` (ggml-org/llama.cpp pull request 28544).

The pull request describes one row `layer,expert` a routed activation, from the ids of every ubatch
and layer; that they are ordered by token is inferred, because no such file was available. A fork
(Cartaz/llama.cpp-vulkan-moe) adds the columns `phase,token,layer,rank,expert`. Both are read, with
or without a header line.

`layer,expert` marks neither tokens nor the prompt: `top_k` must be given, a run of
rows of one layer is a ubatch, one with more than one token is taken for prefill, and one with one
token for decoding. llama.cpp numbers transformer layers, so dense ones are missing; MoE layers are
renumbered from 0 in their order. In its last layer llama.cpp may compute only the rows that it
needs for output: where layers disagree about a ubatch's tokens, the others are left out there.
"""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from moex.trace.record import TraceRecorder
from moex.types import DECODE, PREFILL, Access, Geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moex.trace.format import Trace

_LONG = ["phase", "token", "layer", "rank", "expert"]
_SHORT = ["layer", "expert"]


def read(
    path: str | Path, top_k: int | None = None, experts: int | None = None, expert_bytes: int = 1
) -> Trace:
    """Read a moe-trace CSV as one sequence.

    Args:
        path: the file.
        top_k: experts a token uses; needed for `layer,expert` rows only.
        experts: routed experts of a layer; default: what the ids imply.
        expert_bytes: of one expert.

    Raises:
        ValueError: other columns, or `layer,expert` rows without a `top_k` that divides them.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    if rows and rows[0] in (_LONG, _SHORT):
        rows = rows[1:]
    if not rows or {len(row) for row in rows} not in ({5}, {2}):
        raise ValueError(
            f"trace={path}: expected rows of layer,expert or of phase,token,layer,rank,expert"
        )
    visits = list(_long(rows) if len(rows[0]) == 5 else _short(rows, top_k, path))
    numbers = {layer: number for number, layer in enumerate(sorted({v[1] for v in visits}))}
    width = max(max(expert for expert in v[3]) for v in visits) + 1
    top_k = top_k or min(len(v[3]) for v in visits)
    recorder = TraceRecorder(Geometry(len(numbers), experts or width, top_k, 0, 0, expert_bytes))
    for clock, (position, layer, phase, demanded) in enumerate(visits):
        recorder.add(0, Access(clock, position, numbers[layer], phase, demanded))
    return recorder.trace({"imported": "llama.cpp moe-trace", "name": path.name})


_Visit = tuple[int, int, str, tuple[int, ...]]


def _long(rows: Iterable[list[str]]) -> Iterator[_Visit]:
    """Yield visits (position, layer, phase, experts): runs of rows of one phase and layer."""
    for (phase, layer, token), run in groupby(rows, lambda r: (r[0], r[2], _pass(r))):
        group = list(run)
        demanded = tuple(dict.fromkeys(int(row[4]) for row in group))
        first = int(group[0][1]) if token == "" else int(token)
        yield first, int(layer), PREFILL if phase == "prefill" else DECODE, demanded


def _pass(row: list[str]) -> str:
    """Return what separates two passes of a layer: when decoding, the token."""
    return "" if row[0] == "prefill" else row[1]


def _short(rows: Iterable[list[str]], top_k: int | None, path: Path) -> Iterator[_Visit]:
    if top_k is None:
        raise ValueError(
            f"trace={path}: rows of layer,expert do not say how many experts a token uses; "
            "give top_k=K"
        )
    position, tokens, before = 0, 0, -1
    for layer, run in groupby(rows, lambda row: int(row[0])):
        demanded = [int(row[1]) for row in run]
        if len(demanded) % top_k:
            raise ValueError(
                f"trace={path}: {len(demanded)} rows in a row of layer {layer}, expected a "
                f"multiple of top_k={top_k}"
            )
        if layer <= before:
            position += tokens
            tokens = 0
        tokens, before = max(tokens, len(demanded) // top_k), layer
        phase = PREFILL if tokens > 1 else DECODE
        yield position, layer, phase, tuple(dict.fromkeys(demanded))
