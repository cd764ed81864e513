"""What trained predictors cost a decoding visit: a table of `study.py --time`."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from moex.prefetch.gate import Gate
from moex.prefetch.linear import Linear
from moex.prefetch.mlp import MLP
from moex.sparsity.corm import Corm

if TYPE_CHECKING:
    from moex.models.loader import LoadedModel
    from moex.prefetch.base import Observation


def timed(loaded: LoadedModel, seen: list[Observation]) -> dict[str, float]:
    """Median microseconds a decoding visit."""
    selector, found = Corm(), {}
    selector.bind(loaded.geometry, loaded.folder)
    steps = [o for o in seen if o.access.phase == "decode" and o.access.layer > 0][:600]
    named = {"gate": Gate(), "linear": Linear(), "mlp": MLP(), "mlp depth 3": MLP(3)}
    for name, predictor in named.items():
        predictor.bind(loaded.geometry, loaded.folder)
        predictor.reset(loaded.geometry, 0)
        found[name] = _median(lambda o, p=predictor: (p.observe(o), p.predict(o)), steps)
    for mode in ("late", "predicted"):
        selector.mode = mode
        # Another state a call: a repeated one is not computed again.
        found[f"corm {mode}"] = _median(
            lambda o: selector.select(o.hidden, o.access.layer, o.access.experts), steps
        )
    return found


def _median(call: Any, steps: list[Observation]) -> float:
    times = []
    for step in steps:
        started = perf_counter()
        call(step)
        times.append(perf_counter() - started)
    return 1e6 * median(times)
