"""Parameters of policies that are read from files, or that are very large."""

from __future__ import annotations

import json
from math import nan

import pytest

from moex.api import simulate
from moex.cache.lru_k import LRUK
from moex.cache.static import Static
from moex.cache.window_lfu import WindowLFU


@pytest.mark.parametrize(
    "counts", [[[1.0] * 7] * 6, [[-1] * 8] * 6, [[nan] * 8] * 6, [["1"] * 8] * 6, [1] * 6, {"a": 1}]
)
def test_what_is_no_table_of_counts_is_refused(tmp_path, counts):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(counts))
    with pytest.raises(ValueError, match=r"cache.counts: expected .*; try cache.counts=null$"):
        simulate("tiny", Static(str(path)), slots=3)
    assert simulate("tiny", Static(None), slots=3).requests


@pytest.mark.parametrize(
    ("make", "most"), [(lambda k: LRUK(k=k), 1024), (lambda window: WindowLFU(window), 4096)]
)
def test_what_would_take_memory_without_end_is_refused(make, most):
    assert simulate("tiny", make(most), slots=3).resident_hits
    with pytest.raises(ValueError, match=f"={most + 1}: expected .*{most}"):
        make(most + 1)
