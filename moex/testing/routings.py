"""The contract checker of routing policies; import it from `moex.testing`."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moex.routing.base import NONE, RoutingPolicy
from moex.testing.prefetchers import global_streams
from moex.trace.router_rows import RouterRows
from moex.types import DECODE, PREFILL, Geometry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = Geometry(layers=3, experts=12, top_k=3, hidden=8, intermediate=8, expert_bytes=384)
PASSES = 40

Visit = tuple[RouterRows, NDArray[np.bool_], int, str, int]


def check_routing(factory: Callable[[], RoutingPolicy], geometry: Geometry = SMALL) -> None:
    """Route random visits with the policy and check its contract.

    Every token gets at least one expert, none twice; padding keeps the model's own and changes
    nothing for others; the view is not changed; a policy that depends on residency leaves prompts
    alone, any other chooses alike whatever is resident; the same calls give the same choices on a
    second instance, after a reset, in a copy and after pickling; global random streams are not
    used; hyper-parameters are dataclass fields of plain values.

    Args:
        factory: builds a fresh policy.
        geometry: of the model that it is for.

    Raises:
        AssertionError: the rule that broke, and the visit.
    """
    name, visits = type(factory()).__name__, list(_visits(geometry))

    def start() -> RoutingPolicy:
        policy = factory()
        policy.reset(geometry, 7)
        return policy

    streams = global_streams()
    policy = start()
    choices = _route(name, policy, visits)
    _true(streams == global_streams(), name, "it used a global random stream")
    _true(bool(policy.identity), name, "it has no identity")
    _same(name, choices, _route(name, start(), visits), "a second instance")
    policy.reset(geometry, 7)
    _same(name, choices, _route(name, policy, visits), "the same one after reset()")
    half = len(visits) // 2
    begun = start()
    _route(name, begun, visits[:half])
    for copied in (deepcopy(begun), pickle.loads(pickle.dumps(begun))):
        _same(name, choices[half:], _route(name, copied, visits[half:]), "a copy")
    _same(name, choices, _route(name, start(), map(_padded, visits)), "padded visits")
    if not policy.residency_dependent:
        blind = ((rows, ~held, *rest) for rows, held, *rest in visits)
        _same(name, choices, _route(name, start(), blind), "other residents")  # type: ignore[arg-type]


def _route(name: str, policy: RoutingPolicy, visits: Iterator[Visit] | list[Visit]) -> list:
    """Return the choice of every visit, without padding."""
    choices = []
    for visit in visits:
        rows, held, _, phase, clock = visit
        before = pickle.dumps((rows, held))
        final = policy.route(*visit)
        where = f"at visit {clock}"
        _true(pickle.dumps((rows, held)) == before, name, f"it changed what it was given {where}")
        _true(final.shape == rows.index.shape, name, f"a choice of another shape {where}")
        _true(bool((final != NONE).any(1).all()), name, f"a token without experts {where}")
        for row in final.tolist():
            real = [each for each in row if each != NONE]
            _true(len({*real}) == len(real), name, f"an expert twice {where}")
        own = (final == rows.index).all(1)
        _true(bool(own[rows.padding].all()), name, f"it routed padding {where}")
        if policy.residency_dependent and phase == PREFILL:
            _true(bool(own.all()), name, f"it routed a prompt by what is resident {where}")
        choices.append(final[~rows.padding])
    return choices


def _true(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise AssertionError(f"{name}: {rule}")


def _same(name: str, ours: list, theirs: list, how: str) -> None:
    for number, pair in enumerate(zip(ours, theirs, strict=True)):
        _true(np.array_equal(*pair), name, f"{how} chose otherwise at choice {number}")


def _visits(geometry: Geometry) -> Iterator[Visit]:
    """Yield prompts of five tokens and decoding of three, through all layers."""
    draw = np.random.default_rng(5)
    layers, experts, k = geometry[:3]
    for clock in range(PASSES * layers):
        passed, layer = divmod(clock, layers)
        phase, tokens = (PREFILL, 5) if passed % 10 == 0 else (DECODE, 3)
        logits = draw.normal(size=(tokens, experts)).astype(np.float32) * 2
        index = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        powers = np.exp(np.take_along_axis(logits, index, 1))
        weights = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
        padding = np.zeros(tokens, np.bool_)
        rows = RouterRows(logits, index, weights, padding, index)
        yield rows, draw.random(experts) < 0.5, layer, phase, clock


def _padded(visit: Visit) -> Visit:
    """The visit with a token of padding behind the others."""
    rows, *rest = visit
    more = (np.concatenate([each, each[:1]]) for each in rows)
    wider = RouterRows(*more)
    wider.padding[-1] = True
    return (wider, *rest)  # type: ignore[return-value]
