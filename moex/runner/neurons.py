"""Runs experts by rows: selects the neurons of a visit, and computes with those only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moex.models import experts_interface
from moex.store.row_slots import bitmaps_of
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from moex.cache.row_cache import RowCache
    from moex.sparsity.base import NeuronSelector
    from moex.store.row_slots import RowSlots
    from moex.types import Access, Plan, Prediction

    TokensOf = Callable[[Expert], Tensor | None]


class Neurons:
    """The row-wise steps of a layer visit with a neuron selector.

    Args:
        selector: chooses the neurons that count; bound to the model.
        cache: tracks which rows are resident.
        slots: hold the rows.
    """

    def __init__(self, selector: NeuronSelector, cache: RowCache, slots: RowSlots) -> None:
        self.selector, self.cache, self.slots = selector, cache, slots
        self.needs: list[int | None] = []
        """The rows that each expert of the running visit needs; None: all."""
        self._before: Tensor | None = None
        self._masks: dict[Expert, Tensor | None] = {}
        """For a visit of several tokens: each expert's mask [tokens, intermediate]."""
        self._single: dict[Expert, int | None] = {}
        """For a visit of one token: the bitmap of rows that each expert needs."""
        self._sums: dict[Expert, Tensor] = {}

    def request(self, access: Access, hidden: Tensor, tokens_of: TokensOf) -> Iterator[Plan]:
        """Select neurons, and yield the visit's plans.

        Args:
            access: the visit.
            hidden: its router input [tokens, hidden].
            tokens_of: returns the indices of an expert's tokens; None for all.
        """
        state = self._before if self.selector.ahead(access.layer) else hidden
        self._before, self._sums = hidden, {}
        demanded = [Expert(access.layer, index) for index in access.experts]
        self._masks, self._single = {}, {}
        self.needs = [None] * len(demanded)
        if access.phase == DECODE or self.selector.prefill == "masked":
            assert state is not None
            if len(state) == 1:
                self._select_single(state, access, demanded)
            else:
                self._select(state, access, demanded, tokens_of)
        for plan in self.cache.request(access, self.needs):
            self._hold(plan)
            yield plan

    def prefetch(self, predictions: Sequence[Prediction], clock: int) -> Plan:
        """Admit predictions as prefetches, and return their plan."""
        plan = self.cache.prefetch(predictions, clock)
        self._hold(plan)
        return plan

    def _select_single(self, state: Tensor, access: Access, demanded: list[Expert]) -> None:
        chosen = self.selector.select(state, access.layer, access.experts)
        if chosen is None:
            return
        needs = bitmaps_of(chosen[:, 0])
        self._single = dict(zip(demanded, needs, strict=True))
        if access.phase == DECODE:  # prefill loads whole experts; masks affect only computing
            self.needs = list(needs)

    def _select(
        self, state: Tensor, access: Access, demanded: list[Expert], tokens_of: TokensOf
    ) -> None:
        # One by one: a mask of all tokens for all experts may be too large.
        for number, expert in enumerate(demanded):
            chosen = self.selector.select(state[tokens_of(expert)], expert.layer, [expert.index])
            if chosen is not None:
                self._masks[expert] = chosen[0]
                if access.phase == DECODE:
                    self.needs[number] = bitmaps_of(chosen[0].any(0)[None])[0]

    def _hold(self, plan: Plan) -> None:
        for load in plan.transfers:
            self.slots.hold(load, self.cache.held(load.expert))

    def output(self, expert: Expert, slot: int) -> Callable[[Any, Tensor], Tensor]:
        """Return a function that computes the expert's rows in the slot, plus its earlier parts."""

        def compute(experts: Any, tokens: Tensor) -> Tensor:
            absent = self._absent(expert, slot)
            part = experts_interface.neurons_output(
                experts, tokens, *self.slots.computed(slot, absent)
            )
            before = self._sums.get(expert)
            self._sums[expert] = part if before is None else before + part
            return self._sums[expert]

        return compute

    def _absent(self, expert: Expert, slot: int) -> Tensor | None:
        """The positions of the slot to leave out: bool [tokens or 1, capacity]; None: none."""
        slots, mask, single = self.slots, self._masks.get(expert), self._single.get(expert)
        if not slots.thin and single is None:
            return None if mask is None else ~mask
        rows = self.cache.parts[expert]
        absent = slots.without(slot, rows if single is None else rows & single)[None]
        found = torch.from_numpy(absent).to(slots.records.device)
        if mask is None:
            return found
        table = torch.from_numpy(slots.tables[slot]).clamp(min=0)
        return found | ~mask[:, table.to(mask.device)]
