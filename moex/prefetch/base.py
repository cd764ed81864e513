"""What a prefetcher is: it says which experts later layers will demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from moex.types import Access, Prediction  # noqa: TC001 - a NamedTuple's annotations are its fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moex.trace.format import Trace
    from moex.types import Geometry


def missing_recording(prefetcher: Prefetcher, what: str) -> ValueError:
    """The error of a prefetcher that `set_future` has told nothing."""
    name = type(prefetcher).__name__
    return ValueError(
        f"prefetch={name}(): was given no recording; expected one of this very run, with its "
        f"{what}; try prefetch.set_future(moex.read_trace(FILE)) before it is used"
    )


class Observation(NamedTuple):
    """What is known right after a layer's router has spoken.

    `lookahead[d - 1]` holds one score per expert of layer `access.layer + d`: that layer's router
    applied to this layer's router input, softmax, summed over the visit's tokens. It ends at the
    last layer. `lookahead_norm` is like it, with each layer's own norm before its router. `hidden`
    (tokens x hidden) and `chosen` (tokens x top_k: their experts) are tensors, given live.
    """

    access: Access
    lookahead: tuple[tuple[float, ...], ...] = ()
    hidden: Any = None
    chosen: Any = None
    lookahead_norm: tuple[tuple[float, ...], ...] = ()


class Prefetcher(ABC):
    """Predicts demand. Budget and depth are enforced by the cache; a prefetcher only ranks."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What observations must carry, by its name there; and of `future`, `recorded`: what of a
    recording of this very run (its visits, its predictions)."""

    device_bytes: int = 0
    """Device memory that it holds once bound; the budget counts it."""

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Meet the model; called once, live only, before `reset`.

        Args:
            geometry: of the model.
            model: its folder (checkpoints lie there or name it).
            selector: the run's `NeuronSelector`, None where all neurons count. It is bound already,
                and says which rows of an expert to fetch early (`Prediction.rows`: a bitmap, lowest
                bit first, as `numpy.packbits(..., bitorder="little")` makes it).
        """

    def set_future(self, trace: Trace) -> None:
        """Take the recording of this run; called once, before `reset`, if `needs` names it."""

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget everything."""

    def observe(self, observation: Observation) -> None:
        """See a visit (every one, also those after which nothing is predicted)."""

    @abstractmethod
    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return the experts to fetch for later visits, best first."""
