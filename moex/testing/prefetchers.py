"""The contract checker of prefetchers; import it from `moex.testing.policies`."""

from __future__ import annotations

import pickle
import random
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moex.prefetch.base import Observation
from moex.trace.format import Trace  # noqa: TC001 - a NamedTuple's annotations are its fields
from moex.trace.record import TraceRecorder
from moex.types import DECODE, PREFILL, Access, Expert, Geometry, Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from moex.prefetch.base import Prefetcher

    Predicted = list[list[Prediction]]

SMALL = Geometry(layers=3, experts=12, top_k=3, hidden=8, intermediate=12, expert_bytes=576)
PASSES = 12
PROMPT = 4


def check_prefetcher(
    factory: Callable[[], Prefetcher],
    geometry: Geometry = SMALL,
    model: Path | None = None,
    selector: Any = None,
) -> None:
    """Run the prefetcher on two prompts and their decoding, and check its contract.

    It predicts experts that exist, each once, the best of a layer first, never of the running
    layer; rows are bitmaps of one bit a neuron; the same calls give the same predictions on a
    second instance, after a reset, in a copy and after pickling; global random streams are not
    used. What it `needs` is generated.

    Args:
        factory: builds a fresh prefetcher.
        geometry: of the model that it is bound to.
        model: that model's folder, for those that have a checkpoint.
        selector: a bound `NeuronSelector`, for those that name rows.

    Raises:
        AssertionError: the rule that broke, and the visit.
    """
    observations = list(_observations(geometry))
    prefetcher = factory()
    check = _Check(type(prefetcher).__name__, geometry, _trace(geometry, observations))
    if prefetcher.needs & {"hidden", "chosen"}:
        observations = _with_tensors(geometry, observations)

    def start(fresh: Prefetcher) -> Prefetcher:
        if model is not None:
            fresh.bind(geometry, model, selector)
        if fresh.needs & {"future", "recorded"}:
            fresh.set_future(check.trace)
        fresh.reset(geometry, 7)
        return fresh

    streams = global_streams()
    predicted = _listen(start(prefetcher), observations)
    if streams != global_streams():
        raise check.broken("it used a global random stream; use random.Random(seed)")
    check.answers(observations, predicted)
    check.same(predicted, _listen(start(factory()), observations), "a second instance")
    prefetcher.reset(geometry, 7)
    check.same(predicted, _listen(prefetcher, observations), "the same one after reset()")
    half = len(observations) // 2
    begun = start(factory())
    _listen(begun, observations[:half])
    for copied, how in (
        (deepcopy(begun), "deepcopy"),
        (pickle.loads(pickle.dumps(begun)), "pickling"),
    ):
        check.same(predicted[half:], _listen(copied, observations[half:]), how)


class _Check(NamedTuple):
    name: str
    geometry: Geometry
    trace: Trace

    def broken(self, rule: str, visit: int | None = None) -> AssertionError:
        return AssertionError(
            f"{self.name}: {rule}" + ("" if visit is None else f" at visit {visit}")
        )

    def same(self, ours: Predicted, theirs: Predicted, how: str) -> None:
        for visit, pair in enumerate(zip(ours, theirs, strict=True)):
            if pair[0] != pair[1]:
                raise self.broken(f"{how} predicted something else", visit)

    def answers(self, observations: Sequence[Observation], predicted: Predicted) -> None:
        for observation, predictions in zip(observations, predicted, strict=True):
            rule = _broken(observation, predictions, self.geometry)
            if rule:
                raise self.broken(rule, observation.access.clock)


def _listen(prefetcher: Prefetcher, observations: Sequence[Observation]) -> Predicted:
    predicted = []
    for observation in observations:
        prefetcher.observe(observation)
        predicted.append(list(prefetcher.predict(observation)))
    return predicted


def _broken(
    observation: Observation, predictions: Sequence[Prediction], geometry: Geometry
) -> str | None:
    names = [prediction.expert for prediction in predictions]
    if len(set(names)) < len(names):
        return "an expert was named twice"
    known = range(geometry.layers), range(geometry.experts)
    if any(layer not in known[0] or index not in known[1] for layer, index in names):
        return "an expert was named that does not exist"
    if any(layer == observation.access.layer for layer, _ in names) and geometry.layers > 1:
        return "an expert of the running layer was named"
    for one, other in pairwise(predictions):
        if one.expert.layer == other.expert.layer and not one.score >= other.score:
            return "a layer's experts were not named best first"
    for prediction in predictions:
        if prediction.rows is not None:
            bits = int.from_bytes(prediction.rows, "little")
            if len(prediction.rows) != -(-geometry.intermediate // 8) or (
                bits >> geometry.intermediate
            ):
                return f"rows were not a bitmap of {geometry.intermediate} neurons"
    return None


def _observations(geometry: Geometry) -> Iterator[Observation]:
    draws = random.Random(5)
    clock = 0
    for number in range(2 * PASSES):
        position = number % PASSES
        for layer in range(geometry.layers):
            tokens = PROMPT if position == 0 else 1
            rows = [
                _softmax([draws.gauss(0, 2) * tokens for _ in range(geometry.experts)])
                for _ in range(min(4, geometry.layers - layer))
            ]
            best = sorted(range(geometry.experts), key=rows[0].__getitem__, reverse=True)
            demanded = tuple(best[: geometry.top_k])
            phase = PREFILL if position == 0 else DECODE
            slot = position + PROMPT - 1 if position else 0
            access = Access(clock, slot, layer, phase, demanded, rows[0])
            yield Observation(access, tuple(rows[1:]), lookahead_norm=tuple(rows[1:]))
            clock += 1


def _softmax(row: list[float]) -> tuple[float, ...]:
    exponentials = np.exp(np.asarray(row) - max(row))
    return tuple((exponentials / exponentials.sum()).tolist())


def _with_tensors(geometry: Geometry, observations: Sequence[Observation]) -> list[Observation]:
    import torch

    draws, given = torch.Generator().manual_seed(3), []
    for observation in observations:
        tokens = PROMPT if observation.access.phase == PREFILL else 1
        hidden = torch.randn(tokens, geometry.hidden, generator=draws)
        chosen = torch.tensor([observation.access.experts]).expand(tokens, -1)
        given.append(observation._replace(hidden=hidden, chosen=chosen))
    return given


def _trace(geometry: Geometry, observations: Sequence[Observation]) -> Trace:
    recorder = TraceRecorder(geometry)
    per_sequence = len(observations) // 2
    for number, observation in enumerate(observations):
        access = observation.access
        following = Expert((access.layer + 1) % geometry.layers, access.experts[0])
        recorder.add(
            number // per_sequence, access, observation.lookahead, [Prediction(following, 1.0)]
        )
    return recorder.trace({})


def global_streams() -> tuple[object, bytes]:
    """Return the state of the global random streams, which plug-ins must not use."""
    return random.getstate(), pickle.dumps(np.random.get_state())
