"""Runs experts by rows: selects the neurons of a visit, and computes with those only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moex.models import experts_interface
from moex.store.row_slots import bitmaps_of
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moex.sparsity.base import NeuronSelector
    from moex.store.row_slots import RowSlots
    from moex.types import Access, Plan

    TokensOf = Callable[[Expert], Tensor | None]


class Neurons:
    """The row-wise steps of a layer visit with a neuron selector.

    Args:
        selector: chooses the neurons that count; bound to the model.
        slots: hold the rows.
    """

    def __init__(self, selector: NeuronSelector, slots: RowSlots) -> None:
        self.selector, self.slots = selector, slots
        self._before: Tensor | None = None
        self._masks: dict[Expert, Tensor | None] = {}
        """For a visit of several tokens: each expert's mask [tokens, intermediate]."""
        self._single: dict[Expert, int | None] = {}
        """For a visit of one token: the bitmap of rows that each expert needs."""
        self._sums: dict[Expert, Tensor] = {}

    def select(self, access: Access, hidden: Tensor, tokens_of: TokensOf) -> list[int | None]:
        """Select neurons: the rows that each expert of the visit needs, None for all of them.

        Args:
            access: the visit.
            hidden: its router input [tokens, hidden].
            tokens_of: returns the indices of an expert's tokens; None for all.
        """
        state = self._before if self.selector.ahead(access.layer) else hidden
        self._before, self._sums = hidden, {}
        demanded = [Expert(access.layer, index) for index in access.experts]
        self._masks, self._single = {}, {}
        everything: list[int | None] = [None] * len(demanded)
        if access.phase != DECODE and self.selector.prefill != "masked":
            return everything
        assert state is not None
        select = self._select_single if len(state) == 1 else self._select
        needs = select(state, access, demanded, tokens_of)
        # Prefill loads whole experts: there masks affect only computing.
        return needs if access.phase == DECODE else everything

    def _select_single(
        self, state: Tensor, access: Access, demanded: list[Expert], _: TokensOf
    ) -> list[int | None]:
        chosen = self.selector.select(state, access.layer, access.experts)
        if chosen is None:
            return [None] * len(demanded)
        needs: list[int | None] = [*bitmaps_of(chosen[:, 0])]
        self._single = dict(zip(demanded, needs, strict=True))
        return needs

    def _select(
        self, state: Tensor, access: Access, demanded: list[Expert], tokens_of: TokensOf
    ) -> list[int | None]:
        needs: list[int | None] = [None] * len(demanded)
        # One by one: a mask of all tokens for all experts may be too large.
        for number, expert in enumerate(demanded):
            chosen = self.selector.select(state[tokens_of(expert)], expert.layer, [expert.index])
            if chosen is not None:
                self._masks[expert] = chosen[0]
                if access.phase == DECODE:
                    needs[number] = bitmaps_of(chosen[0].any(0)[None])[0]
        return needs

    def place(self, plan: Plan) -> None:
        """Assign positions in their slots to the rows that the plan loads."""
        if self.slots.thin:
            for load, held in zip(plan.transfers, plan.held, strict=True):
                self.slots.hold(load, held)

    def output(self, expert: Expert, slot: int, rows: int) -> Callable[[Any, Tensor], Tensor]:
        """Return a function that computes `rows` of the expert, and adds its earlier parts."""

        def compute(experts: Any, tokens: Tensor) -> Tensor:
            absent = self._absent(expert, slot, rows)
            part = experts_interface.neurons_output(
                experts, tokens, *self.slots.computed(slot, absent)
            )
            before = self._sums.get(expert)
            self._sums[expert] = part if before is None else before + part
            return self._sums[expert]

        return compute

    def _absent(self, expert: Expert, slot: int, rows: int) -> Tensor | None:
        """The positions of the slot to leave out: bool [tokens or 1, capacity]; None: none."""
        slots, mask, single = self.slots, self._masks.get(expert), self._single.get(expert)
        if not slots.thin and single is None:
            return None if mask is None else ~mask
        absent = slots.without(slot, rows if single is None else rows & single)[None]
        found = torch.from_numpy(absent).to(slots.records.device)
        if mask is None:
            return found
        table = torch.from_numpy(slots.tables[slot]).clamp(min=0)
        return found | ~mask[:, table.to(mask.device)]
