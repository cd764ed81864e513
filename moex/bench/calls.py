"""Times the calls of an offloaded model that a program makes itself, and makes a row of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from moex.bench.setup import describe
from moex.hardware.process_memory import peak_host_bytes
from moex.models.guards import NeverCopied
from moex.runner.meter import peak_device_bytes
from moex.runs.measured import measured
from moex.types import PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from moex.runner.assemble import LoadedModel, Setup
    from moex.runner.offloaded import OffloadedModel
    from moex.runs.report import Report


def time_calls(offloaded: OffloadedModel) -> Callable[[], None]:
    """Time every forward pass from its begin to its end; return what ends that."""
    model, calls = offloaded.model, _Calls(offloaded)
    hooks = [
        model.register_forward_pre_hook(calls.begin),
        model.register_forward_hook(calls.end, with_kwargs=True),
    ]

    def stop() -> None:
        for hook in hooks:
            hook.remove()

    return stop


class _Calls(NeverCopied):
    """Times calls without keeping the model alive, which nobody may close."""

    def __init__(self, offloaded: OffloadedModel) -> None:
        self._offloaded = ref(offloaded)

    def begin(self, *_: Any) -> None:
        """Begin a pass."""
        if (offloaded := self._offloaded()) is not None:
            offloaded.meter.start()

    def end(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Count the seconds and tokens of a pass."""
        offloaded = self._offloaded()
        given = kwargs.get("input_ids", kwargs.get("inputs_embeds", args[0] if args else None))
        if given is None or offloaded is None:
            return
        rows, length = given.shape[:2]
        tokens = rows * length if offloaded.phase == PREFILL else rows
        with offloaded.meter.measure(offloaded.phase, tokens, sync=True):
            pass


def reporter(
    offloaded: OffloadedModel, loaded: LoadedModel, setup: Setup, name: str
) -> Callable[[], Report]:
    """Return what makes the row of all calls so far; it may be called after closing, too."""
    begun = describe(offloaded, loaded, setup)
    begun.fill(model=name, workload="calls", seed=setup.seed)
    return partial(_report, ref(offloaded), begun)


def _report(held: ref[OffloadedModel], begun: Report) -> Report:
    offloaded = held()
    assert offloaded is not None, "it was reached through the model"
    row = replace(begun, lossy=[*begun.lossy])
    sections = measured(offloaded.layer_stats, offloaded.meter.phases, bool(row.rows_moved))
    peaks = {"peak_host_bytes": peak_host_bytes(), "peak_device_bytes": peak_device_bytes()}
    row.fill(*sections, **offloaded.journal.swaps.rates, **peaks)
    return row
