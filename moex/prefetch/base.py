"""The interface of a prefetcher: it predicts which experts later layers will demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from moex.types import Access, Prediction  # noqa: TC001 - a NamedTuple's annotations are its fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moex.cache.base import CachePolicy
    from moex.trace.format import Trace
    from moex.types import Geometry


def missing_recording(prefetcher: Prefetcher, what: str) -> ValueError:
    """Return the error of a prefetcher that was given no recording by `set_future`."""
    name = type(prefetcher).__name__
    return ValueError(
        f"prefetch={name}(): was given no recording; expected one of this same run, with its "
        f"{what}; try prefetch.set_future(moex.read_trace(FILE)) before it is used"
    )


def check_forecast(policy: CachePolicy, prefetcher: Prefetcher | None) -> None:
    """Refuse a policy that asks for a forecast where nothing is predicted.

    Raises:
        ValueError: there is no prefetcher.
    """
    if "forecast" in policy.needs and (prefetcher is None or not prefetcher.predicts):
        name = type(policy).__module__.rpartition(".")[2]
        raise ValueError(
            f"cache={name} with prefetch=none: asks the prefetcher when experts are needed; "
            "expected one that predicts; try prefetch=gate prefetch.depth=3 memory.pool=global"
        )


class Observation(NamedTuple):
    """What is known right after a layer's router has chosen experts.

    `lookahead[d - 1]` holds one score per expert of layer `access.layer + d`: that layer's router
    applied to this layer's router input, softmax, summed over the visit's tokens. It ends at the
    last layer. `lookahead_norm` is the same with each layer's own norm before its router. `hidden`
    [tokens, hidden] and `chosen` [tokens, top_k] (expert indices) are tensors, given in live runs.
    """

    access: Access
    lookahead: tuple[tuple[float, ...], ...] = ()
    hidden: Any = None
    chosen: Any = None
    lookahead_norm: tuple[tuple[float, ...], ...] = ()


class Prefetcher(ABC):
    """Predicts demand. Budget and depth are enforced by the cache; a prefetcher only ranks."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the prefetcher requires: fields of `Observation`, and of a recording of this same run
    `future` (its visits) and `recorded` (its predictions)."""

    trainer: ClassVar[str] = ""
    """Dotted name of the `moex.train.fit.Trainer` that `mode=train` fits it with; "": none."""

    predicts: ClassVar[bool] = True
    """Whether it ever predicts anything."""

    device_bytes: int = 0
    """Bytes of device memory held after `bind`; they count towards the memory budget."""

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Prepare for a model; called once, in live runs only, before `reset`.

        Args:
            geometry: of the model.
            model: its folder (with checkpoints, or to find them by its digest).
            selector: the run's `NeuronSelector`, None if all neurons are computed. It is bound
                already, and predicts which rows of an expert to prefetch (`Prediction.rows`: a
                bitmap, lowest bit first, as `numpy.packbits(..., bitorder="little")` makes it).
        """

    def set_future(self, trace: Trace) -> None:
        """Take the recording of this run; called once, before `reset`, if `needs` names it."""

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all state."""

    def observe(self, observation: Observation) -> None:
        """Observe a visit; called for every visit, also where prefetching is paused.

        There `predict` is not called after it, and `lookahead_norm` is empty.
        """

    @property
    def repeatable(self) -> bool:
        """Whether `predictions` gives all that `predict` would return in a replay of a trace."""
        return False

    def predictions(self, trace: Trace) -> tuple[Any, Any]:
        """Return what is predicted in every visit of a trace; called after `reset`, if repeatable.

        Returns:
            offsets [visits + 1] and experts, numbered `layer * experts + index`, as arrays: those
            of visit i are `experts[offsets[i]:offsets[i + 1]]`, best first.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return the experts to prefetch for later visits, best first."""
