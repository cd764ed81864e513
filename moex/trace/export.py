"""Writes traces for other tools: libCacheSim's oracleGeneral."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from moex.trace.format import Trace

_RECORD = np.dtype(
    [("clock", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")], align=False
)


def oracle_general(trace: Trace, path: str | Path) -> Path:
    """Write the trace as oracleGeneral: 24 packed bytes a request (u32, u64, u32, i64).

    One request an access, in the order of the run and of each visit's top-k: a visit's set is
    flattened, which is what that format can say. `clock` is the visit, `object` is
    `layer * experts + index`, `size` is 1, and `next` the number of the object's next request
    (counted from 0), -1 if there is none.

    Source: libCacheSim, traceReader/customizedReader/oracle/oracleGeneral.h.
    """
    path = Path(path)
    counts = np.diff(trace.offsets)
    requests = np.zeros(len(trace.experts), _RECORD)
    layer = np.repeat(trace.layer.astype(np.int64), counts)
    objects = layer * trace.geometry.experts + trace.experts
    requests["clock"] = np.repeat(np.arange(len(trace)), counts)
    requests["object"] = objects
    requests["size"] = 1
    order = np.argsort(objects, kind="stable")
    following = np.full(len(order), -1, np.int64)
    same = objects[order[1:]] == objects[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    requests["next"] = following
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        requests.tofile(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
