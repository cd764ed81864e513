"""Runs experts by rows: which neurons count for a visit, and computing with those alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moex.runner import hf
from moex.store.rows import bitmap_of, members
from moex.types import DECODE, PREFILL, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from moex.cache.rows import RowCache
    from moex.sparsity.base import NeuronSelector
    from moex.store.rows import RowSlots
    from moex.types import Access, Plan, Prediction

    TokensOf = Callable[[Expert], Tensor | None]


class Neurons:
    """What a neuron selector changes in a layer visit.

    Args:
        selector: says which neurons count; bound to the model.
        cache: keeps the books of rows.
        slots: holds them.
    """

    def __init__(self, selector: NeuronSelector, cache: RowCache, slots: RowSlots) -> None:
        self.selector, self.cache, self.slots = selector, cache, slots
        self.needs: list[int | None] = []
        """The rows that each expert of the running visit needs; None: all."""
        self._before: Tensor | None = None
        self._masks: dict[Expert, Tensor | None] = {}
        self._sums: dict[Expert, Tensor] = {}
        self._alone: dict[Expert, int | None] = {}
        """Where one token is decoded: the rows that it needs."""

    def request(self, access: Access, hidden: Tensor, tokens_of: TokensOf) -> Iterator[Plan]:
        """Select, and yield the visit's plans.

        Args:
            access: the visit.
            hidden: its router input [tokens, hidden].
            tokens_of: which of the tokens an expert is computed for; None for all.
        """
        state = self._before if self.selector.ahead(access.layer) else hidden
        self._before, self._sums = hidden, {}
        demanded = [Expert(access.layer, index) for index in access.experts]
        self._masks = dict.fromkeys(demanded)
        if access.phase == DECODE or self.selector.prefill == "masked":
            assert state is not None
            self._select(state, demanded, tokens_of)
        # In prefill whole experts come; a mask is then only computed with.
        self.needs = [
            None if mask is None or access.phase == PREFILL else _union(mask)
            for mask in self._masks.values()
        ]
        one = access.phase == DECODE and len(hidden) == 1
        self._alone = dict(zip(demanded, self.needs, strict=True)) if one else {}
        for plan in self.cache.request(access, self.needs):
            self._hold(plan)
            yield plan

    def prefetch(self, predictions: Sequence[Prediction], clock: int) -> Plan:
        """Admit guesses."""
        plan = self.cache.prefetch(predictions, clock)
        self._hold(plan)
        return plan

    def _select(self, state: Tensor, demanded: list[Expert], tokens_of: TokensOf) -> None:
        if len(state) == 1:
            chosen = self.selector.select(state, demanded[0].layer, [e.index for e in demanded])
            if chosen is not None:
                self._masks = dict(zip(demanded, chosen, strict=True))
            return
        for expert in demanded:  # one by one: a mask of all tokens for all experts may be too large
            chosen = self.selector.select(state[tokens_of(expert)], expert.layer, [expert.index])
            self._masks[expert] = None if chosen is None else chosen[0]

    def _hold(self, plan: Plan) -> None:
        for load in plan.transfers:
            self.slots.hold(load.slot, load.expert, self.cache.held(load.expert))

    def output(self, expert: Expert, place: int) -> Callable[[Any, Tensor], Tensor]:
        """What computes the expert's part that is in the place, added to its parts before."""

        def compute(experts: Any, tokens: Tensor) -> Tensor:
            mask = self._masks[expert]
            if self.slots.thin:
                mask = self._at_positions(expert, mask, place)
            part = hf.neurons_output(experts, tokens, *self.slots.computed(place, mask))
            before = self._sums.get(expert)
            self._sums[expert] = part if before is None else before + part
            return self._sums[expert]

        return compute

    def _at_positions(self, expert: Expert, mask: Tensor | None, place: int) -> Tensor:
        """The mask [tokens or 1, capacity] of the positions of a thin place."""
        slots, part = self.slots, self.cache.parts[expert]
        device, alone = slots.records.device, self._alone.get(expert)
        if alone is not None:
            part, mask = part & alone, None
        here = np.zeros(slots.capacity, bool)
        here[slots.positions(place, members(part, slots.width))] = True
        if mask is None:
            return torch.from_numpy(here)[None].to(device)
        rows = torch.from_numpy(slots.table(place)).clamp(min=0)
        return mask[:, rows.to(device)] & torch.from_numpy(here).to(device)


def _union(mask: Tensor) -> int:
    """The bitmap of the rows that any token [tokens, intermediate] needs."""
    return bitmap_of(mask[0] if len(mask) == 1 else mask.any(0))
