"""The interface of a routing policy: it decides which experts a token asks for.

The choice is made from router logits and logical residency alone, in numpy, so that a live run and
a replay of its trace choose alike. Weights are none of its business: the runner gathers them from
the model's own scores.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - a NamedTuple's annotations are its fields

from moex.types import PREFILL

if TYPE_CHECKING:
    from moex.trace.router_rows import RouterRows
    from moex.types import Geometry

NONE = -1
"""In a choice: no expert."""

EXCLUDED = -1e30
"""In `RoutingView.logits`: the router does not consider this expert."""


class RoutingView(NamedTuple):
    """What a policy sees of one layer visit; padding is left out.

    Args:
        logits: what the router takes the largest k of, float32 [tokens, experts]: raw logits, or
            scores with a bias (DeepSeek-V3), `EXCLUDED` outside of the groups that it considers.
        index: the model's own choice, best first, int64 [tokens, k].
        weights: the model's own weights of it, float32 [tokens, k].
        held: which experts of the layer are resident or in flight, bool [experts].
        layer: the MoE layer.
        phase: `types.PREFILL` or `types.DECODE`.
        clock: number of the visit.
    """

    logits: NDArray[np.float32]
    index: NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.index, never called
    weights: NDArray[np.float32]
    held: NDArray[np.bool_]
    layer: int
    phase: str
    clock: int

    @property
    def own(self) -> NDArray[np.bool_]:
        """Which experts are the model's own choice [tokens, experts]."""
        return chosen_of(self.index, self.logits.shape[1])

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which experts the router considers [tokens, experts]."""
        return self.logits > EXCLUDED

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of raw logits [tokens, experts]; set `by_probability` to use it."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    @property
    def shares(self) -> NDArray[np.float64]:
        """The model's own weights, scaled to a sum of 1 a token [tokens, k]."""
        weights = self.weights.astype(np.float64)
        return weights / weights.sum(1, keepdims=True)


class RoutingPolicy(ABC):
    """Chooses experts; dataclass fields are hyper-parameters.

    A policy is deterministic given its seed and its calls, reads no clock, and uses no global
    random stream. If it depends on residency, prompts are routed as the model does.
    """

    residency_dependent: ClassVar[bool] = False
    """Whether choices depend on `RoutingView.held`."""

    by_probability: ClassVar[bool] = False
    """Whether choices need probabilities: routers that rank by other scores are refused."""

    background: bool = False
    """Whether experts that were replaced are loaded behind demand and offered to the cache."""

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all state.

        Raises:
            ValueError: hyper-parameters that do not suit the model.
        """

    def refuse_scores(self, raw: bool) -> None:
        """Refuse routers that do not rank experts by raw logits, if those are needed.

        Raises:
            ValueError: there are no probabilities.
        """
        if self.by_probability and not raw:
            raise ValueError(
                f"routing={type(self).__module__.rpartition('.')[2]}: compares probabilities, but "
                "the model's routers rank experts by scores with a bias or by groups; expected a "
                "method that only ranks; try routing=cache_prior"
            )

    def observe(self, view: RoutingView) -> None:
        """Observe a visit before `choose`; called in prompts, too, where `choose` may not be."""

    @abstractmethod
    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Return each token's experts [tokens, k], in any order; `NONE`: fewer of them."""

    def route(
        self, rows: RouterRows, held: NDArray[np.bool_], layer: int, phase: str, clock: int
    ) -> NDArray[np.int64]:
        """Return the experts of a visit [tokens, k]; `NONE` where a token has fewer.

        Experts of the model's own choice stay in their positions; padding keeps all of them.
        """
        real = ~rows.padding
        logits, index, weights = rows.logits[real], rows.index[real], rows.weights[real]
        # Some routers name their choice in any order.
        best = np.argsort(-np.take_along_axis(logits, index, 1), 1, kind="stable")
        given = np.take_along_axis(index, best, 1), np.take_along_axis(weights, best, 1)
        view = RoutingView(logits, *given, held, layer, phase, clock)
        final = rows.index.copy()
        if not real.any():
            return final
        self.observe(view)
        if phase != PREFILL or not self.residency_dependent:
            final[real] = self._placed(view, index, self.choose(view))
        return final

    def _placed(
        self, view: RoutingView, own: NDArray[np.int64], chosen: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return a choice with experts of the model's `own` choice in its positions."""
        final = own.copy()
        for row in np.flatnonzero((chosen != own).any(1)).tolist():
            wanted = [each for each in chosen[row].tolist() if each != NONE]
            known = all(0 <= each < view.logits.shape[1] for each in wanted)
            if not wanted or len({*wanted}) < len(wanted) or not known:
                raise ValueError(
                    f"routing={type(self).__name__}: chose experts {chosen[row].tolist()} in layer "
                    f"{view.layer}; expected at least one, none twice, of {view.logits.shape[1]}"
                )
            mine = own[row].tolist()
            new = iter([each for each in wanted if each not in mine])
            final[row] = [each if each in wanted else next(new, NONE) for each in mine]
        return final

    @property
    def identity(self) -> dict[str, Any]:
        """Class and hyper-parameters as plain values, for provenance."""
        kind = type(self)
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init}  # type: ignore[arg-type]
        named = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}
        plain: dict[str, Any] = json.loads(json.dumps(named))
        return plain


def chosen_of(index: NDArray[np.int64], experts: int) -> NDArray[np.bool_]:
    """Return which experts are in a choice [tokens, k], as bits [tokens, experts]."""
    bits = np.zeros((len(index), experts + 1), np.bool_)
    np.put_along_axis(bits, index, True, 1)  # NONE is the last column
    return bits[:, :experts]


def ranked(view: RoutingView, scores: NDArray[Any], *first: NDArray[Any]) -> NDArray[np.int64]:
    """Return all experts of each token, best first [tokens, experts].

    Args:
        view: of the visit.
        scores: the higher, the better [tokens, experts]; ties: the model's own choice, then the
            lowest index.
        first: groups that come before scores: the lower, the better [tokens, experts].
    """
    return np.lexsort((~view.own, -scores, *first[::-1]), axis=-1)


def promoted(view: RoutingView, candidates: NDArray[np.bool_], keep: int) -> NDArray[np.int64]:
    """Return the choice in which candidates that are held come first.

    Args:
        view: of the visit.
        candidates: the experts that may be chosen [tokens, experts].
        keep: so many best experts of each token stay.
    """
    experts = view.logits.shape[1]
    groups, candidates = np.full(view.logits.shape, 3), candidates & view.allowed
    groups[candidates | view.own] = 2
    groups[(candidates | view.own) & view.held] = 1
    groups[chosen_of(view.index[:, :keep], experts)] = 0
    return ranked(view, view.logits, groups)[:, : view.index.shape[1]]


def of_layer(value: float | list[float], layer: int) -> float:
    """Return a hyper-parameter's value in a layer: one for all, or one for each."""
    return value[layer] if isinstance(value, list) else value


def check_layers(key: str, value: float | list[float], geometry: Geometry) -> None:
    """Refuse a list that has not one value for each layer.

    Raises:
        ValueError: with the key, what was given and what to type.
    """
    if isinstance(value, list) and len(value) != geometry.layers:
        example = f"[{','.join(map(str, (value * geometry.layers)[: geometry.layers]))}]"
        raise ValueError(
            f"{key}: {len(value)} given, expected one per layer, of which the model has "
            f"{geometry.layers}; try {key}={example}"
        )


def check_range(key: str, value: float | list[float], low: float, high: float = np.inf) -> None:
    """Refuse numbers below `low` or above `high`.

    Raises:
        ValueError: with the key, what was given and what was expected.
    """
    values = value if isinstance(value, list) else [value]
    if not values or not all(low <= each <= high for each in values):
        expected = f"{low:g} or more" if high == np.inf else f"{low:g} to {high:g}"
        given = str(value).replace(" ", "")
        raise ValueError(f"{key}={given}: expected {expected}")
