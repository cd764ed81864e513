"""Exports traces to other tools: libCacheSim's oracleGeneral."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moex.runs.atomic import atomic_write
from moex.trace.trace import following

if TYPE_CHECKING:
    from moex.trace.format import Trace

_RECORD = np.dtype(
    [("clock", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")], align=False
)


def oracle_general(trace: Trace, path: str | Path) -> Path:
    """Write the trace as oracleGeneral: 24 packed bytes a request (u32, u64, u32, i64).

    One request an access, in the order of the run and of each visit's top-k: a visit's set is
    flattened, because the format has no sets. `clock` is the visit, `object` is
    `layer * experts + index`, `size` is 1, and `next` the number of the object's next request
    (counted from 0), -1 if there is none.

    Source: libCacheSim, traceReader/customizedReader/oracle/oracleGeneral.h.
    """
    path, names = Path(path), trace.names()
    requests = np.zeros(len(names), _RECORD)
    requests["clock"] = np.repeat(np.arange(len(trace)), np.diff(trace.offsets))
    requests["object"] = names
    requests["size"] = 1
    requests["next"] = following(names)
    with atomic_write(path) as partial:
        requests.tofile(partial)
    return path
