"""A transformers model whose experts go through cache, link and slots.

`generate`, `forward` and lm-eval see an ordinary model. One layer visit goes as architecture says:
route, request, submit demand, predict, submit guesses, compute what is there, wait for the rest.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from moex.cache.ledger import Ledger
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.runner import hf
from moex.runner.meter import Meter
from moex.runner.residual import NormedLookahead
from moex.trace.format import DEPTHS
from moex.trace.record import TraceRecorder
from moex.types import PREFILL, Access, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from moex.cache.core import ExpertCache
    from moex.link.base import Link
    from moex.prefetch.base import Prefetcher
    from moex.runner.hf import MoeLayer
    from moex.store.slots import Slots
    from moex.types import Plan, Prediction


class OffloadedModel:
    """Runs a model's experts from slots; a context manager that gives the transformers model.

    Args:
        model: the skeleton; its experts may be on meta.
        layers: its MoE layers.
        cache: decides.
        slots: where experts are computed from.
        link: moves them there.
        prefetcher: guesses; default none.
        on_plan: called with every plan that is executed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[MoeLayer],
        cache: ExpertCache,
        slots: Slots,
        link: Link,
        prefetcher: Prefetcher | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> None:
        self.model, self.layers, self.cache = model, layers, cache
        self.slots, self.link, self.on_plan = slots, link, on_plan
        self.prefetcher = prefetcher or NoPrefetch()
        self.predicts = not isinstance(self.prefetcher, NoPrefetch)
        self.meter = Meter(link.stats)
        # Row block d is the router of d layers ahead: scores of all of them in one product.
        weights = [layer.router.weight.detach() for layer in layers]
        self._routers = [
            torch.cat(weights[number : number + 1 + DEPTHS]) for number in range(len(layers))
        ]
        self._normed: NormedLookahead | None = None
        if "lookahead_norm" in self.prefetcher.needs:
            self._normed = NormedLookahead(model, layers)
        self._stack, self.closing = ExitStack(), ExitStack()
        self._clock = 0
        self.restart()

    def __enter__(self) -> PreTrainedModel:
        calls = [partial(self._visit, number) for number in range(len(self.layers))]
        self._stack.enter_context(hf.attach(self.model, self.layers, calls, self._begin))
        if self._normed:
            self._stack.enter_context(self._normed.attached())
        return self.model

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach, stop the link's threads, and close what was handed over with the model."""
        with self.closing:
            self._stack.close()
            self.link.close()

    def restart(self) -> None:
        """Start a run: an empty cache, an empty trace, empty books."""
        self.finish()
        self.cache.reset()
        self.prefetcher.reset(self.cache.geometry, self.cache.seed)
        self.recorder = TraceRecorder(self.cache.geometry)
        self.ledger = Ledger(self.cache.geometry.expert_bytes)
        self._clock = 0
        self._phase, self._position, self._sequence = PREFILL, 0, -1

    def empty(self) -> None:
        """Start a sequence cold: an empty cache, a fresh policy; books and trace go on."""
        self.finish()
        self.cache.reset()
        self.prefetcher.reset(self.cache.geometry, self.cache.seed)

    def finish(self) -> None:
        """End a run: guesses whose visit never came are booked as wasted."""
        if self._clock:
            plan = self.cache.finish(self._clock - 1)
            self.link.submit(plan)
            self.ledger.dropped(self._phase, plan)
            if self.on_plan:
                self.on_plan(plan)

    def _begin(self, phase: str, position: int, tokens: int) -> None:
        self._phase, self._position = phase, position
        self._sequence += position == 0

    def _visit(
        self, number: int, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor
    ) -> Tensor:
        scores, *lookahead = self._scores(number, hidden)
        chosen = index.tolist()
        demanded = chosen[0] if len(chosen) == 1 else dict.fromkeys(chain.from_iterable(chosen))
        access = Access(self._clock, self._position, number, self._phase, tuple(demanded), scores)
        self._clock += 1
        work = _Work(experts, hidden, index, weights, chosen)
        normed = self._normed.scores(number, hidden) if self._normed else ()
        observation = Observation(
            access, tuple(lookahead), hidden, index=index, lookahead_norm=normed
        )
        predictions: Sequence[Prediction] = ()
        late, waited = 0, False
        for plan in self.cache.request(access):
            self._execute(plan)
            if plan.last and self.predicts:
                predictions = self._prefetch(observation)
            for expert, place in zip(plan.hits, plan.places, strict=True):
                if expert not in plan.guessed:
                    work.compute(expert, self.slots.tensors[place])
            for expert in plan.guessed:
                place = plan.places[plan.hits.index(expert)]
                held_up = self._wait(place)
                late += held_up
                waited = waited or held_up
                work.compute(expert, self.slots.tensors[place])
            for load in plan.loads:
                waited = self._wait(load.slot) or waited
                work.compute(load.expert, self.slots.tensors[load.slot])
            self.ledger.demand(access.phase, plan)
        self.ledger.waited(access.phase, late, waited)
        self.recorder.add(self._sequence, access, observation.lookahead, predictions)
        return work.result()

    def _scores(self, number: int, hidden: Tensor) -> list[tuple[float, ...]]:
        """Router softmax of this layer and the next ones, summed over the tokens."""
        routers = self._routers[number]
        experts = self.cache.geometry.experts
        logits = functional.linear(hidden, routers).view(len(hidden), -1, experts)
        rows = logits.softmax(-1, dtype=torch.float32).sum(0).tolist()
        return [tuple(row) for row in rows]

    def _execute(self, plan: Plan) -> None:
        if self.on_plan:
            self.on_plan(plan)
        self.link.submit(plan)

    def _prefetch(self, observation: Observation) -> Sequence[Prediction]:
        self.prefetcher.observe(observation)
        predictions = self.prefetcher.predict(observation)
        plan = self.cache.prefetch(predictions, observation.access.clock)
        self.ledger.prefetch(observation.access.phase, plan)
        self._execute(plan)
        return predictions

    def _wait(self, place: int) -> bool:
        stall = self.link.wait(place)
        self.meter.stall_s += stall
        return stall > 0


class _Work:
    """The computing of one visit. Every result lands in its top-k position and is summed last.

    So the order in which experts arrive cannot change a bit; the arithmetic is `grouped_mm`'s.
    """

    def __init__(
        self,
        experts: nn.Module,
        hidden: Tensor,
        index: Tensor,
        weights: Tensor,
        chosen: list[list[int]],
    ) -> None:
        self.experts, self.hidden, self.weights, self.chosen = experts, hidden, weights, chosen
        kind = torch.promote_types(hidden.dtype, weights.dtype)
        self.out = torch.empty(*index.shape, hidden.shape[1], dtype=kind, device=hidden.device)
        if len(chosen) > 1:
            order, rows = torch.sort(index.reshape(-1))  # as stock does it, ties included
            counts = torch.bincount(order, minlength=int(order[-1]) + 1).tolist()
            self.rows = rows.split(counts)

    def compute(self, expert: Expert, tensors: dict[str, Tensor]) -> None:
        """Compute the expert for all tokens of the visit that chose it, in one call."""
        top_k = self.weights.shape[1]
        if len(self.chosen) == 1:
            position = self.chosen[0].index(expert[1])
            result = hf.expert_output(self.experts, self.hidden, tensors)
            torch.mul(result, self.weights[:, position, None], out=self.out[:, position])
            return
        rows = self.rows[expert[1]]
        result = hf.expert_output(self.experts, self.hidden[rows // top_k], tensors)
        self.out.view(-1, self.out.shape[-1])[rows] = result * self.weights.reshape(-1)[
            rows
        ].unsqueeze(-1)

    def result(self) -> Tensor:
        """Sum over the top-k positions."""
        return self.out.sum(dim=1).to(self.hidden.dtype)
