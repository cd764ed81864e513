"""One layer visit, step by step: the simulator bills the same steps in the same order.

route, request a plan for each wave, submit its demand loads, predict and submit prefetches (in
the last wave), compute what is resident, then what arrives, combine, record.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING

from moex.models import experts_interface
from moex.prefetch.base import Observation
from moex.runner.layer_forward import LayerForward, StreamedWeights
from moex.runner.rerouting import given
from moex.types import Access

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor, nn

    from moex.runner.offloaded import OffloadedModel
    from moex.runner.rerouting import Routed
    from moex.types import Expert, Plan, Prediction


class LayerVisit:
    """The state of one visit.

    Args:
        run: the model that it is a visit of.
        number: of the MoE layer.
        experts: the layer's module.
        hidden: router input [tokens, hidden].
        index: the router's choice [tokens, k], which a routing policy may change.
        weights: of that choice [tokens, k].
    """

    def __init__(
        self,
        run: OffloadedModel,
        number: int,
        experts: nn.Module,
        hidden: Tensor,
        index: Tensor,
        weights: Tensor,
    ) -> None:
        self.routed: Routed | None = None
        if run.rerouting is not None:
            self.routed = run.rerouting.route(run, number, index, weights)
            index, weights, choice = self.routed
        self.run, self.number, self.hidden, self.index = run, number, hidden, index
        # Router rows that decide nothing are computed once loads are on their way; but a GPU is
        # waited for once.
        first = run.cache.reads_scores or hidden.is_cuda
        self.rows = run.lookahead.rows(number, hidden) if first else []
        chosen = index.tolist()
        if self.routed is None:
            demanded = tuple(dict.fromkeys(chain.from_iterable(chosen)))
        else:
            demanded = choice.experts
        self.access = Access(
            run.journal.clock, run.position, number, run.phase, demanded, *self.rows[:1]
        )
        self.work = LayerForward(experts, hidden, index, weights, chosen, self.routed is not None)
        self.needs: Sequence[int | None] = ()
        """The rows that each expert needs, with a neuron selector; None: all."""
        self.stats = run.layer_stats[number]
        self.late, self.waited = 0, False
        self.earlier: LayerForward | None = None
        """Of the visit before, with the outputs that are added here."""
        self.postponed: tuple[int, LayerForward] | None = None
        """The thread and the computing of this visit, if the next one has to compute some of it."""
        self.stalled = False
        """Whether the running expert was waited for."""
        self.low: dict[Expert, int] = {}
        """The slots of the low slices that the running wave computes with."""
        self.predictions: Sequence[Prediction] = ()
        self.lookahead: tuple[tuple[float, ...], ...] = ()

    def output(self) -> Tensor:
        """Take every step; the layer's output [tokens, hidden]."""
        if self.run.neurons:
            self.needs = self.run.neurons.select(self.access, self.hidden, self.work.tokens_of)
        for plan in self.run.cache.request(self.access, self.needs):
            self.run.execute(plan)
            given = self.begin_host(plan)
            self.work.skip(plan.skipped)
            self.run.governor.count(self.access, plan)
            if plan.last:
                self.predict()
            self.compute(plan)
            self.finish_host(plan, given)
            self.stats.demand(self.access.phase, plan)
        return self.combine()

    def logged(self, events: deque[tuple[Any, ...]]) -> Tensor:
        """Take every step; note when, and what the slots held then."""
        started = perf_counter()
        output = self.output()
        held = self.run.cache.occupancy()
        events.append(("visit", self.number, started, perf_counter(), *held))
        return output

    def predict(self) -> None:
        """Ask the prefetcher, unless it is paused; submit its loads, then displaced experts."""
        run = self.run
        scores, *lookahead = self.rows or run.lookahead.rows(self.number, self.hidden)
        # As `_replace` does it, in a third of its time.
        self.access, self.lookahead = Access(*self.access[:5], scores), tuple(lookahead)
        asked = run.predicts and self.ask()
        if asked:
            plan = run.cache.prefetch(self.predictions, self.access.clock)
            self.stats.prefetch(self.access.phase, plan)
            run.execute(plan)
        if self.routed is not None and self.routed.choice.displaced:
            plan = run.cache.admit(self.routed.choice.displaced, self.access)
            self.stats.background(self.access.phase, plan)
            run.execute(plan)

    def ask(self) -> bool:
        """Let the prefetcher observe the visit, and predict unless it is paused."""
        run = self.run
        index = self.index if self.routed is None else given(self.index)
        seen = Observation(self.access, self.lookahead, self.hidden, chosen=index)
        if not run.governor.allows(self.access):
            run.prefetcher.observe(seen)
            self.stats.paused(self.access.phase)
            return False
        if run.normed_lookahead:
            scored = run.normed_lookahead.scores(self.number, self.hidden)
            seen = seen._replace(lookahead_norm=scored)
        run.prefetcher.observe(seen)
        self.predictions = run.prefetcher.predict(seen)
        run.cache.forecast(self.predictions, self.access)
        return True

    def compute(self, plan: Plan) -> None:
        """Compute the wave's experts: residents, what is due, then in the order of arrival."""
        rows = dict(plan.computed)
        self.low = dict(plan.low)
        for expert, slot in plan.residents:
            self.waited = self.expert(expert, slot, rows) or self.waited
        if plan.due:  # loaded before what this plan loads
            self.catch_up(plan.due)
        for expert, slot, prefetched in plan.arrivals:
            stalled = self.expert(expert, slot, rows)
            self.late += stalled and prefetched
            self.waited = self.waited or stalled

        if plan.deferred:
            self.work.postpone(plan.deferred)
            self.postponed = get_ident(), self.work

    def catch_up(self, due: Sequence[tuple[Expert, int]]) -> None:
        """Compute what the visit before deferred, unless that was another thread's pass."""
        thread, work = self.run.postponed or (0, self.work)
        if thread == get_ident():
            self.earlier = work.later()
            for expert, slot in due:
                self.waited = self.expert(expert, slot, {}, self.earlier) or self.waited

    def expert(
        self, expert: Expert, slot: int, rows: dict[Expert, int], of: LayerForward | None = None
    ) -> bool:
        """Compute an expert when it is there, or while it arrives; whether it was waited for.

        `of`: another visit's, for which it is computed.
        """
        run, work, self.stalled = self.run, of or self.work, False
        tokens = work.tokens(expert)
        if run.neurons:
            self.wait(slot)
            result = run.neurons.compute(work.experts, tokens, expert, slot, rows.get(expert))
        else:
            weights = run.slots.tensors[slot]
            if run.cache.low_slots:
                weights = self.slices(expert, slot)
            elif run.link.in_parts:
                weights = StreamedWeights(weights, run.slots.ends, partial(self.wait, slot))
            else:
                self.wait(slot)
            result = experts_interface.expert_output(work.experts, tokens, weights)
        work.put(expert, result)
        run.link.used(slot)
        if expert in self.low:
            run.link.used(self.low[expert])
        return self.stalled

    def slices(self, expert: Expert, slot: int) -> dict[str, Any]:
        """Wait for the slices of an expert that this visit computes with; return its weights."""
        self.wait(slot)
        low, slots = self.low.get(expert), self.run.slots
        if low is None:
            return slots.tensors[slot]
        self.wait(low)
        return slots.both(slot, low)  # type: ignore[attr-defined]

    def wait(self, slot: int, size: int | None = None) -> None:
        """Wait for a slot's load, or for its first bytes."""
        link = self.run.link
        late = link.wait(slot) if size is None else link.wait_part(slot, size)
        self.stalled = late or self.stalled

    def begin_host(self, plan: Plan) -> list:
        """Give the host the experts that it computes."""
        if not self.run.host or not plan.host:
            return []
        tokens = [self.work.tokens(expert) for expert in plan.host]
        return self.run.host.begin(self.work.experts, plan.host, tokens)

    def finish_host(self, plan: Plan, given: list) -> None:
        """Take the host's results."""
        host = self.run.host
        if host and given:
            before = host.stall_s
            results = host.finish(given, self.hidden.device)
            for expert, result in zip(plan.host, results, strict=True):
                self.work.put(expert, result)
            self.waited = host.stall_s > before or self.waited

    def combine(self) -> Tensor:
        """Sum over the top-k positions, and write the visit down."""
        run, phase = self.run, self.access.phase
        self.stats.waited(phase, self.late, self.waited)
        if self.needs:
            self.stats.selected(phase, self.needs)
        about = self.lookahead, self.predictions, len(self.index), self.needs
        rows = self.routed.choice.rows if self.routed else None
        run.recorder.add(run.sequence, self.access, *about, rows)
        result = self.work.result()
        if self.earlier is not None:
            result = result + self.earlier.result()
        run.postponed = self.postponed
        run.meter.visit()
        if rows is not None:
            run.journal.swaps.count(rows, phase)
        return result
