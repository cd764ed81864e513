"""A transformers model whose experts go through cache, link and slots.

`layer_visit.py` has the steps of a visit, `journal.py` what a run records and takes back.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, cast
from weakref import finalize

from moex.cache.stats import CacheStats
from moex.decisions.governor import Governor
from moex.models import experts_interface
from moex.models.guards import NeverCopied
from moex.models.normed_lookahead import NormedLookahead
from moex.models.router_scores import Lookahead
from moex.prefetch.none import NoPrefetch
from moex.runner.journal import Journal
from moex.runner.layer_visit import LayerVisit
from moex.runner.meter import Meter, totals
from moex.runner.rerouting import Rerouting
from moex.trace.format import DEPTHS
from moex.types import PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from moex.cache.core import ExpertCache
    from moex.link.base import Link
    from moex.link.host_tier import HostTierStore
    from moex.models.experts_interface import MoeLayer
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.runner.host_executor import HostExecutor
    from moex.runner.layer_forward import LayerForward
    from moex.runner.neurons import Neurons
    from moex.runner.routing_replay import RoutingReplay
    from moex.runs.report import Report
    from moex.store.slots import Slots
    from moex.trace.record import TraceRecorder
    from moex.types import Plan


class OffloadedModel(NeverCopied):
    """Runs a model's experts from slots; a context manager that gives the transformers model.

    Args:
        model: the skeleton; its experts may be on meta.
        layers: its MoE layers.
        cache: decides.
        slots: where experts are computed from.
        link: moves them there.
        prefetcher: names experts that will be needed; default none.
        neurons: which of them count; default all.
        on_plan: called with every plan that is executed.
        host: computes the experts that plans give to the host.
        governor: pauses the prefetcher; default never.
        routing: chooses the experts of every token; default: the routers do.
        tier: the host tier that the link reads from; default none.
    """

    residency_dependent = False
    planned_bytes: int | None = None
    break_even: float | None = None
    report: Callable[[], Report]
    """The row of the calls so far, where `moex.load` made the model."""
    trace_folder: Path | None = None
    """Where a long run's visits are kept until it ends; None: the system's temporary folder."""

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[MoeLayer],
        cache: ExpertCache,
        slots: Slots,
        link: Link,
        prefetcher: Prefetcher | None = None,
        neurons: Neurons | None = None,
        on_plan: Callable[[Plan], None] | None = None,
        host: HostExecutor | None = None,
        governor: Governor | None = None,
        routing: RoutingPolicy | None = None,
        tier: HostTierStore | None = None,
    ) -> None:
        self.tier = tier
        self.model, self.layers, self.cache, self.host = model, layers, cache, host
        self.slots, self.link, self.neurons, self.on_plan = slots, link, neurons, on_plan
        self.prefetcher, self.governor = prefetcher or NoPrefetch(), governor or Governor()
        self.predicts = self.prefetcher.predicts
        self.meter = Meter(partial(totals, link, host))
        hidden, routers = cache.geometry.hidden, [layer.router for layer in layers]
        lookahead = Lookahead(routers, hidden, DEPTHS)
        if "lookahead" in self.prefetcher.needs:
            lookahead.must_know(type(self.prefetcher).__name__, type(model).__name__)
        self.rerouting = Rerouting.of(routing, lookahead, hidden, model)
        self.lookahead: Lookahead | RoutingReplay = lookahead
        self.routing: RoutingReplay | None = None
        normed = "lookahead_norm" in self.prefetcher.needs
        self.normed_lookahead = NormedLookahead(model, layers, hidden) if normed else None
        self._stack, self.closing = ExitStack(), ExitStack()
        # Also when nobody closes it: a thread of the link would hold all memory for ever.
        finalize(self, link.close).atexit = False
        self.provenance: dict[str, Any] = {}
        self.events: deque[tuple[Any, ...]] | None = None
        about = self.rerouting.about if self.rerouting else {}
        self.journal = Journal(cache.geometry, {"overlaps": link.overlaps, **about})
        self._calling, self.mask = RLock(), cast("Tensor | None", None)
        self.restart()

    def log_events(self, limit: int) -> None:
        """Keep so many of a run's latest events for its timeline; said before it is entered."""
        self.events = self.link.log = deque(maxlen=limit)

    def __enter__(self) -> PreTrainedModel:
        if not self.slots.tensors:
            raise RuntimeError("model: closed before, its memory was given back; load it anew")
        calls = [partial(self._call, number) for number in range(len(self.layers))]
        given = self.model, self.layers, calls, self._begin
        self._stack.enter_context(experts_interface.attach(*given))
        if self.normed_lookahead:
            self._stack.enter_context(self.normed_lookahead.attached())
        if self.rerouting:
            self._stack.enter_context(self.rerouting.logits.attached())
        return self.model

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach, stop threads, give memory back, and close what was handed over with the model."""
        with self.closing:
            self._stack.close()
            self.link.close()
            self.slots.close()
            for each in (self.host, self.tier):
                if each:
                    each.close()

    def restart(self) -> None:
        """Start a run: an empty cache, an empty trace, fresh statistics."""
        with self._one_call():
            self._open(-1)
            self._empty()
            if self.routing is not None:
                self.routing.reset()
            if self.events is not None:
                self.log_events(self.events.maxlen or 0)
            self.phase, self.position, self.sequence = PREFILL, 0, -1
            self.journal = self.journal.anew(self.trace_folder)

    def empty(self) -> None:
        """Start a sequence cold: an empty cache, a fresh policy; statistics and trace go on."""
        with self._one_call():
            self._open(-1)
            self._empty()
            self.journal.end()

    def _empty(self) -> None:
        self._finish()
        self._forget()

    def _forget(self) -> None:
        given = self.cache.geometry, self.cache.seed
        self.cache.reset()
        self.prefetcher.reset(*given)
        self.governor.reset()
        self.postponed: tuple[int, LayerForward] | None = None
        if self.rerouting:
            self.rerouting.policy.reset(*given)

    @property
    def recorder(self) -> TraceRecorder:
        """The run's visits so far."""
        return self.journal.recorder

    @property
    def layer_stats(self) -> list[CacheStats]:
        """The statistics of every layer."""
        return self.journal.layer_stats

    @property
    def cache_stats(self) -> CacheStats:
        """The statistics of all layers in one."""
        return CacheStats.total(self.layer_stats)

    def finish(self) -> None:
        """End a run: prefetched experts whose visit never came are counted as wasted."""
        with self._one_call():
            self._open(-1)
            self._finish()
            self.journal.end()

    def _finish(self) -> None:
        if self.journal.clock:
            plan = self.cache.finish(self.journal.clock - 1)
            self.execute(plan)
            self.layer_stats[-1].dropped(self.phase, plan)

    def _one_call(self) -> RLock:
        """The lock under which everything happens: two threads take turns, visit by visit.

        Raises:
            RuntimeError: this thread is inside a call already.
        """
        if self._calling._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError(
                "model: called from inside one of its own calls; expected callbacks such as "
                "on_plan to return first"
            )
        return self._calling

    def _open(self, layer: int) -> None:
        """Begin what changes this layer's statistics; after an interrupted call, start cold.

        What that call left behind (slots half filled, threads that died) is given up.
        """
        if self.journal.interrupted:
            self.link.restart()
            if self.host:
                self.host.restart()
            if self.routing is not None:
                self.routing.reset()
            self._forget()
            self.meter.start()
            self.journal.take_back()
        self.journal.begin(layer)

    def _begin(self, phase: str, position: int, mask: Tensor | None) -> None:
        self.phase, self.position, self.mask = phase, position, mask
        self.sequence += position == 0

    def _call(
        self, number: int, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        """One layer visit, all of it or nothing."""
        with self._one_call():
            self._open(number)
            if self.routing is not None:
                index, weights = self.routing.route(number, index, weights)
            visit = LayerVisit(self, number, experts, hidden, index, weights)
            output = visit.output() if self.events is None else visit.logged(self.events)
            self.journal.end()
            return output

    def replay(self, routing: RoutingReplay) -> None:
        """Let a recorded routing overrule the model's own routers."""
        self.routing = self.lookahead = routing

    def execute(self, plan: Plan) -> None:
        """Tell who listens, and let the link begin."""
        if self.neurons:
            self.neurons.assign(plan)
        if self.on_plan:
            self.on_plan(plan)
        if self.tier:
            self.tier.take(plan, self.slots)
        self.link.submit(plan)
