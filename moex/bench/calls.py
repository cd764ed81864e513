"""Times the calls of an offloaded model that a program makes itself, and makes a row of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moex.bench.setup import describe
from moex.hardware.process_memory import peak_host_bytes
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
    meter = offloaded.meter

    def begin(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meter.start()

    def end(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = kwargs.get("input_ids", kwargs.get("inputs_embeds", args[0] if args else None))
        if given is None:
            return
        rows, length = given.shape[:2]
        tokens = rows * length if offloaded.phase == PREFILL else rows
        with meter.measure(offloaded.phase, tokens, sync=True):
            pass

    hooks = [
        offloaded.model.register_forward_pre_hook(begin, with_kwargs=True),
        offloaded.model.register_forward_hook(end, with_kwargs=True),
    ]

    def stop() -> None:
        for hook in hooks:
            hook.remove()

    return stop


def reporter(
    offloaded: OffloadedModel, loaded: LoadedModel, setup: Setup, name: str
) -> Callable[[], Report]:
    """Return what makes the row of all calls so far; it may be called after closing, too."""
    begun = describe(offloaded, loaded, setup)
    begun.fill(model=name, workload="calls", seed=setup.seed)

    def report() -> Report:
        row = replace(begun, lossy=[*begun.lossy])
        sections = measured(offloaded.layer_stats, offloaded.meter.phases, bool(row.rows_moved))
        peaks = {"peak_host_bytes": peak_host_bytes(), "peak_device_bytes": peak_device_bytes()}
        row.fill(*sections, **offloaded.journal.swaps.rates, **peaks)
        return row

    return report
