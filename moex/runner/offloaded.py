"""A transformers model whose experts go through cache, link and slots.

`generate`, `forward` and lm-eval see an ordinary model. One layer visit goes as architecture says:
route, request, submit demand, predict, submit guesses, compute what is there, wait for the rest.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from functools import partial
from itertools import chain
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import finalize

from moex.cache.stats import CacheStats
from moex.models import experts_interface
from moex.models.guards import NeverCopied
from moex.models.normed_lookahead import NormedLookahead
from moex.models.router_scores import Lookahead
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.runner.journal import Journal
from moex.runner.layer_forward import LayerForward, StreamedWeights
from moex.runner.meter import Meter
from moex.trace.format import DEPTHS
from moex.types import PREFILL, Access, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from moex.cache.core import ExpertCache
    from moex.cache.row_cache import RowCache
    from moex.link.base import Link
    from moex.models.experts_interface import MoeLayer
    from moex.prefetch.base import Prefetcher
    from moex.runner.host_executor import HostExecutor
    from moex.runner.neurons import Neurons
    from moex.runner.routing_replay import RoutingReplay
    from moex.store.slots import Slots
    from moex.trace.record import TraceRecorder
    from moex.types import Plan, Prediction


class OffloadedModel(NeverCopied):
    """Runs a model's experts from slots; a context manager that gives the transformers model.

    Args:
        model: the skeleton; its experts may be on meta.
        layers: its MoE layers.
        cache: decides.
        slots: where experts are computed from.
        link: moves them there.
        prefetcher: guesses; default none.
        neurons: which of them count; default all.
        on_plan: called with every plan that is executed.
        host: computes the experts that plans give to the host.
    """

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
    ) -> None:
        self.model, self.layers, self.cache, self.host = model, layers, cache, host
        self.slots, self.link, self.neurons, self.on_plan = slots, link, neurons, on_plan
        self.residency: ExpertCache | RowCache = (
            neurons.cache if neurons else cache
        )  # of rows, if any
        self.prefetcher = prefetcher or NoPrefetch()
        self.predicts = not isinstance(self.prefetcher, NoPrefetch)
        self.meter = Meter(link.stats, link.collect_stall)
        lookahead = Lookahead([layer.router for layer in layers], cache.geometry.hidden, DEPTHS)
        if "lookahead" in self.prefetcher.needs:
            lookahead.must_know(type(self.prefetcher).__name__, type(model).__name__)
        self.lookahead: Lookahead | RoutingReplay = lookahead
        self.routing: RoutingReplay | None = None
        self._normed: NormedLookahead | None = None
        if "lookahead_norm" in self.prefetcher.needs:
            self._normed = NormedLookahead(model, layers, cache.geometry.hidden)
        self._stack, self.closing = ExitStack(), ExitStack()
        # Also when nobody closes it: a thread of the link would hold all memory for ever.
        finalize(self, link.close).atexit = False
        self.planned_bytes: int | None = None
        self.events: deque[tuple[Any, ...]] | None = None
        self._calling = RLock()
        self.journal = Journal(cache.geometry)
        self.restart()

    def log_events(self, limit: int) -> None:
        """Keep so many of a run's latest events for its timeline; said before it is entered."""
        self.events = self.link.log = deque(maxlen=limit)

    def __enter__(self) -> PreTrainedModel:
        if not self.slots.tensors:
            raise RuntimeError("model: closed before, its memory was given back; load it anew")
        calls = [partial(self._call, number) for number in range(len(self.layers))]
        self._stack.enter_context(
            experts_interface.attach(self.model, self.layers, calls, self._begin)
        )
        if self._normed:
            self._stack.enter_context(self._normed.attached())
        return self.model

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach, stop threads, give memory back, and close what was handed over with the model."""
        with self.closing:
            self._stack.close()
            self.link.close()
            self.slots.close()
            if self.host:
                self.host.close()

    def restart(self) -> None:
        """Start a run: an empty cache, an empty trace, fresh statistics."""
        with self._one_call():
            self._open(-1)
            self._empty()
            if self.routing is not None:
                self.routing.reset()
            if self.events is not None:
                self.log_events(self.events.maxlen or 0)
            self._phase, self._position, self._sequence = PREFILL, 0, -1
            self.journal = Journal(self.cache.geometry)

    def empty(self) -> None:
        """Start a sequence cold: an empty cache, a fresh policy; statistics and trace go on."""
        with self._one_call():
            self._open(-1)
            self._empty()
            self.journal.end()

    def _empty(self) -> None:
        self._finish()
        self.residency.reset()
        self.prefetcher.reset(self.cache.geometry, self.cache.seed)

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
            plan = self.residency.finish(self.journal.clock - 1)
            self._execute(plan)
            self.layer_stats[-1].dropped(self._phase, plan)

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

        What that call left behind (slots half filled, experts that count as resident and never
        came, threads that died) is given up, whatever it was.
        """
        if self.journal.interrupted:
            self.link.restart()
            if self.host:
                self.host.restart()
            if self.routing is not None:
                self.routing.reset()
            self.residency.reset()
            self.prefetcher.reset(self.cache.geometry, self.cache.seed)
            self.meter.start()
            self.journal.take_back()
        self.journal.begin(layer)

    def _begin(self, phase: str, position: int, tokens: int) -> None:
        self._phase, self._position = phase, position
        self._sequence += position == 0

    def _call(
        self, number: int, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        """One layer visit, all of it or nothing."""
        with self._one_call():
            self._open(number)
            if self.routing is not None:
                index, weights = self.routing.route(number, index, weights)
            visit = self._visit if self.events is None else self._logged_visit
            result = visit(number, experts, hidden, index, weights)
            self.journal.end()
            return result

    def _visit(
        self, number: int, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        # What decides nothing comes when loads are on their way; but a GPU is waited for once.
        first = self.cache.reads_scores or hidden.is_cuda
        rows = self.lookahead.rows(number, hidden) if first else []
        chosen = index.tolist()
        self.meter.collect_stall()
        demanded = tuple(dict.fromkeys(chain.from_iterable(chosen)))
        clock = self.journal.clock
        access = Access(clock, self._position, number, self._phase, demanded, *rows[:1])
        work = LayerForward(experts, hidden, index, weights, chosen)
        late, waited = 0, False
        for plan in self._plans(access, work):
            self._execute(plan)
            given = work.begin(self.host, plan.host) if self.host and plan.host else []
            work.skip(plan.skipped)
            if plan.last:
                scores, *lookahead = rows or self.lookahead.rows(number, hidden)
                access = access._replace(scores=scores)
                seen = Observation(access, tuple(lookahead), hidden, chosen=index)
                if self._normed:
                    seen = seen._replace(lookahead_norm=self._normed.scores(number, hidden))
                predictions = self._prefetch(seen) if self.predicts else ()
            coming = {load.expert for load in plan.transfers}
            for expert, slot in zip(plan.hits, plan.slots, strict=True):
                if expert not in plan.prefetched and expert not in coming:
                    waited = self._compute(work, expert, slot) or waited
            for expert in plan.prefetched:
                if expert not in coming:
                    held_up = self._compute(work, expert, plan.slots[plan.hits.index(expert)])
                    late += held_up and expert not in plan.partial
                    waited = waited or held_up
            for load in plan.transfers:
                waited = self._compute(work, load.expert, load.slot) or waited
            if self.host and given:
                stall = work.finish(self.host, plan.host, given)
                self.meter.stall_s += stall
                waited = stall > 0 or waited
            self.layer_stats[number].demand(access.phase, plan)
        self.layer_stats[number].waited(access.phase, late, waited)
        needs = self.neurons.needs if self.neurons else ()
        self.layer_stats[number].selected(access.phase, needs)
        self.recorder.add(self._sequence, access, seen.lookahead, predictions, len(chosen), needs)
        result = work.result()
        self.meter.visit()
        return result

    def replay(self, routing: RoutingReplay) -> None:
        """Let a recorded routing overrule the model's own routers."""
        self.routing = self.lookahead = routing

    def _logged_visit(self, number: int, *given: Any) -> Tensor:
        started = perf_counter()
        result = self._visit(number, *given)
        assert self.events is not None
        self.events.append(("visit", number, started, perf_counter(), *self.cache.occupancy()))
        return result

    def _plans(self, access: Access, work: LayerForward) -> Iterator[Plan]:
        if self.neurons:
            return self.neurons.request(access, work.hidden, work.tokens_of)
        return self.cache.request(access)

    def _compute(self, work: LayerForward, expert: Expert, slot: int) -> bool:
        """Compute an expert when it is there, or while it arrives; whether it was waited for."""
        before, weights = self.meter.stall_s, self.slots.tensors[slot]
        if self.link.in_parts and not self.neurons:
            weights = StreamedWeights(weights, self.slots.ends, partial(self._wait, slot))
        else:
            self._wait(slot)
        whole = partial(experts_interface.expert_output, weights=weights)
        work.compute(expert, self.neurons.output(expert, slot) if self.neurons else whole)
        self.link.used(slot)
        return self.meter.stall_s > before

    def _execute(self, plan: Plan) -> None:
        if self.on_plan:
            self.on_plan(plan)
        self.link.submit(plan)

    def _prefetch(self, observation: Observation) -> Sequence[Prediction]:
        self.prefetcher.observe(observation)
        predictions = self.prefetcher.predict(observation)
        plan = (self.neurons or self.cache).prefetch(predictions, observation.access.clock)
        self.layer_stats[observation.access.layer].prefetch(observation.access.phase, plan)
        self._execute(plan)
        return predictions

    def _wait(self, slot: int, size: int | None = None) -> None:
        link = self.link
        self.meter.stall_s += link.wait(slot) if size is None else link.wait_part(slot, size)
