"""Importer of router traces of stratamoe-lab (`router-trace.v2.json`).

One JSON object with `version` 2, `layers`, `expertsPerLayer`, `topK` and `selections`, a list
[token][layer][k] of expert ids. If `capture-metadata.json` is in the same folder, its
`prompt_spans` (`token_start`, `token_end_exclusive`) delimit the sequences; otherwise all tokens
are one.

The published trace is of an encoder, which has no decoding; that project replays it token by token,
and so does this importer (every token a decode pass).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moex.trace.importers.build import build, geometry_of

if TYPE_CHECKING:
    from moex.trace.format import Trace


def read(path: str | Path, expert_bytes: int = 1) -> Trace:
    """Read a `router-trace.v2.json`.

    Raises:
        ValueError: another version, or selections that disagree with the header.
    """
    path = Path(path)
    recorded = json.loads(path.read_text(encoding="utf-8"))
    if recorded.get("version") != 2 or "selections" not in recorded:
        raise ValueError(
            f"trace={path}: version {recorded.get('version')}, expected a router trace of "
            "version 2 with the key selections"
        )
    ids = np.asarray(recorded["selections"], np.int64)
    shape = (ids.shape[0], recorded["layers"], recorded["topK"])
    if ids.shape != shape:
        raise ValueError(f"trace={path}: selections are {ids.shape}, the header says {shape}")
    sequence = np.zeros(len(ids), np.int64)
    metadata = path.with_name("capture-metadata.json")
    if metadata.is_file():
        spans = json.loads(metadata.read_text(encoding="utf-8")).get("prompt_spans", [])
        for number, span in enumerate(spans):
            sequence[span["token_start"] : span["token_end_exclusive"]] = number
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    first = np.repeat(starts, np.diff(np.append(starts, len(ids))))
    return build(
        ids,
        sequence=sequence,
        position=np.arange(len(ids)) - first,
        prefill=np.zeros(len(ids), np.bool_),
        geometry=geometry_of(ids, recorded["expertsPerLayer"], expert_bytes),
        provenance={"imported": "selections", "source": recorded.get("source", {})},
    )
