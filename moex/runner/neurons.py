"""Selects the neurons of a visit, and computes with those only: of rows, or of whole experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.models import experts_interface
from moex.store.row_slots import RowSlots, bitmaps_of
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from moex.sparsity.base import NeuronSelector
    from moex.store.slots import Slots
    from moex.types import Access, Plan

    TokensOf = Callable[[Expert], Tensor | None]


class Neurons:
    """The row-wise steps of a layer visit with a neuron selector.

    Args:
        selector: chooses the neurons that count; bound to the model.
        slots: hold whole experts, or rows of them.
    """

    def __init__(self, selector: NeuronSelector, slots: Slots) -> None:
        self.selector, self.slots = selector, slots
        self._before: Tensor | None = None
        self._masks: dict[Expert, Tensor] = {}
        """The neurons that each expert of the visit leaves out [tokens, intermediate]."""
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
        self._masks = {}
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
        self._masks = dict(zip(demanded, (~chosen).unbind(), strict=True))
        return [*bitmaps_of(chosen[:, 0])]

    def _select(
        self, state: Tensor, access: Access, demanded: list[Expert], tokens_of: TokensOf
    ) -> list[int | None]:
        needs: list[int | None] = [None] * len(demanded)
        # One by one: a mask of all tokens for all experts may be too large.
        for number, expert in enumerate(demanded):
            chosen = self.selector.select(state[tokens_of(expert)], expert.layer, [expert.index])
            if chosen is not None:
                self._masks[expert] = ~chosen[0]
                if access.phase == DECODE:
                    needs[number] = bitmaps_of(chosen[0].any(0)[None])[0]
        return needs

    def assign(self, plan: Plan) -> None:
        """Assign positions in their slots to the rows that the plan loads."""
        if isinstance(self.slots, RowSlots) and self.slots.thin:
            for load, held in zip(plan.transfers, plan.held, strict=True):
                self.slots.hold(load, held)

    def compute(
        self, experts: nn.Module, tokens: Tensor, expert: Expert, slot: int, rows: int | None
    ) -> Tensor:
        """Compute `rows` of an expert for its tokens [n, hidden], and add its earlier parts.

        Args:
            experts: the layer's module.
            tokens: those of the visit that chose the expert.
            expert: an expert of the visit.
            slot: that holds it.
            rows: bitmap of the rows of this part, where experts are moved by rows.
        """
        absent = self._absent(expert, slot, rows)
        part = experts_interface.neurons_output(experts, tokens, *self.slots.computed(slot, absent))
        before = self._sums.get(expert)
        self._sums[expert] = part if before is None else before + part
        return self._sums[expert]

    def _absent(self, expert: Expert, slot: int, rows: int | None) -> Tensor | None:
        """The positions of the slot to leave out: bool [tokens or 1, capacity]; None: none."""
        slots, left_out = self.slots, self._masks.get(expert)
        if rows is None or not isinstance(slots, RowSlots) or not slots.thin:
            return left_out
        absent = torch.from_numpy(slots.without(slot, rows)[None]).to(slots.records.device)
        if left_out is None:
            return absent
        table = torch.from_numpy(slots.tables[slot]).clamp(min=0)
        return absent | left_out[:, table.to(left_out.device)]
