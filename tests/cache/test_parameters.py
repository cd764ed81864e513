"""Parameters of policies that are read from files, or that are very large."""

from __future__ import annotations

import json
from math import nan

import pytest

from moex.api import simulate
from moex.cache.lru_k import LRUK
from moex.cache.static import Static


@pytest.mark.parametrize(
    "counts", [[[1.0] * 7] * 6, [[-1] * 8] * 6, [[nan] * 8] * 6, [["1"] * 8] * 6, [1] * 6, {"a": 1}]
)
def test_what_is_no_table_of_counts_is_refused(tmp_path, counts):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(counts))
    with pytest.raises(ValueError, match=r"cache.counts: expected .*; try cache.counts=null$"):
        simulate("tiny", Static(str(path)), slots=3)
    assert simulate("tiny", Static(None), slots=3).requests


def test_lru_k_remembers_no_more_uses_than_there_were():
    many, more = (simulate("tiny", LRUK(k), slots=3) for k in (10**5, 10**15))
    assert many.resident_hits == more.resident_hits > 0
