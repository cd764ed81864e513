"""2Q decides as the full version in Johnson & Shasha 1994 (VLDB), figure 2."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from traces import visit

from moex.cache.core import ExpertCache
from moex.cache.two_q import TwoQ
from moex.types import Geometry


def published(pages: list[int], size: int, k_in: int, k_out: int) -> list[bool]:
    """Whether each page is a hit; heads of the queues are on the left."""
    am, a1_in, a1_out = deque(), deque(), deque()

    def reclaim() -> None:
        if len(am) + len(a1_in) < size:
            return
        if len(a1_in) > k_in:
            a1_out.appendleft(a1_in.pop())
            if len(a1_out) > k_out:
                a1_out.pop()
        else:
            am.pop()

    hits = []
    for page in pages:
        hits.append(page in am or page in a1_in)
        if page in am:
            am.remove(page)
            am.appendleft(page)
        elif page in a1_out:
            a1_out.remove(page)
            reclaim()
            am.appendleft(page)
        elif page not in a1_in:
            reclaim()
            a1_in.appendleft(page)
    return hits


@given(
    pages=st.lists(st.integers(0, 11), min_size=30, max_size=150),
    size=st.integers(2, 9),
    first=st.sampled_from([0.25, 0.5, 0.7]),
)
def test_hits_are_those_of_the_published_pseudo_code(pages, size, first):
    cache = ExpertCache(TwoQ(first), Geometry(1, 12, 1, 4, 4, 48), size)
    found = [
        not plan.loads
        for clock, page in enumerate(pages)
        for plan in cache.request(visit(clock, page))
    ]
    assert found == published(pages, size, max(1, int(first * size)), max(1, size // 2))


def test_newcomers_that_just_fill_their_share_stay():
    cache = ExpertCache(TwoQ(0.5), Geometry(1, 9, 1, 4, 4, 48), 4)
    pages = (0, 1, 2, 3, 4, 0, 1)  # 0 and 1 come back: proven; 3 and 4 are in the first queue
    for clock, page in enumerate(pages):
        list(cache.request(visit(clock, page)))
    assert {expert.index for expert in cache.residents(0)} == {0, 1, 3, 4}
    list(cache.request(visit(len(pages), 5)))
    assert {expert.index for expert in cache.residents(0)} == {1, 3, 4, 5}
