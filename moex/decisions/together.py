"""Parts that do not work together, each refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.miss.base import SliceHandler, word_of

if TYPE_CHECKING:
    from moex.decisions.decisions import Decisions
    from moex.miss.base import MissHandler


def check_together(decisions: Decisions) -> None:
    """Refuse settings of which one needs what the other takes away.

    Raises:
        ValueError: both settings, and what to type instead.
    """
    memory, miss, routing = decisions.memory, decisions.miss, decisions.routing
    if isinstance(miss, SliceHandler):
        word = word_of(miss)
        if len(decisions.slices) != 2:
            raise one_slice(miss)
        if not isinstance(memory.slots, int | float | None):
            raise ValueError(
                f"memory.slots={memory.slots} with miss={word}: slots by layer hold whole experts; "
                "expected one number; try memory.slots=0.5"
            )
        _refuse_host(decisions, f"miss={word}", "experts are held in slices", "miss=fetch")
    if miss is not None and miss.defers:
        _refuse_host(decisions, "miss=defer", "slots of deferred experts are kept", "miss=fetch")
        if decisions.neurons is not None:
            raise ValueError(
                "miss=defer: does not work with a neuron selector, whose absent rows are fetched; "
                "try miss=fetch, or sparsity=none"
            )
    if routing is not None and routing.background:
        what = "replaced experts are loaded in the background"
        _refuse_host(decisions, "routing.background=true", what, "routing.background=false")
    if decisions.neurons is not None:
        _refuse_host(decisions, "sparsity", "only selected neurons are moved", "sparsity=none")


def one_slice(miss: MissHandler) -> ValueError:
    """Return the error of a miss handler that asks for slices where records are whole."""
    word = word_of(miss)
    return ValueError(
        f"miss={word}: asks for slices of experts, and these records have one; expected a "
        f"quantizer of two slices: try quant=sliced miss={word}, or miss=fetch"
    )


def _refuse_host(decisions: Decisions, given: str, why: str, instead: str) -> None:
    host = decisions.memory.host
    if host is not None:
        raise ValueError(
            f"memory.host={host} with {given}: a host tier holds whole experts that a visit "
            f"loads, and here {why}; expected one of both; try {instead}, or memory.host=null"
        )
