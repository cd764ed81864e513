"""Measures forward passes: seconds, stall and link activity, separately for each phase."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from moex.link.base import LinkStats
from moex.runs.measured import Clocked
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moex.link.base import Link
    from moex.runner.host_executor import HostExecutor


class Meter:
    """Times every forward pass, and adds one entry per pass to the series.

    A pass is timed from the end of the previous pass (sampling included), so that the seconds of
    all passes sum to the run's. The device is synchronized only at the end of a sequence's prefill
    and of its decoding: more would destroy the overlap that is measured.
    """

    def __init__(self, stats: Callable[[], LinkStats] = LinkStats) -> None:
        self._stats, self.times_visits = stats, False
        self.reset()

    def reset(self) -> None:
        """Clear all measurements."""
        self.phases = {PREFILL: Clocked(), DECODE: Clocked()}
        self.series: list[dict[str, Any]] = []
        self.spans: list[tuple[float, float]] = []
        self.visits: list[float] = []
        self.start()

    def start(self) -> None:
        """Start measuring now: time before this call is not counted."""
        synchronize()
        self._mark = self._visit_mark = perf_counter(), self._stats()

    def visit(self) -> None:
        """End a layer visit; its seconds without stall are recorded while calibrating only.

        They run from the end of the previous visit or pass. The device is synchronized, which
        prevents overlap with the host: these seconds are for cost tables only.
        """
        if self.times_visits:
            synchronize()
            before, link = self._visit_mark
            self._visit_mark = now, linked = perf_counter(), self._stats()
            self.visits.append((now - before) - (linked.stall_s - link.stall_s))

    @contextmanager
    def measure(self, phase: str, tokens: int, sync: bool = False) -> Iterator[None]:
        """Measure one pass that consumes or generates `tokens` tokens."""
        yield
        if sync:
            synchronize()
        started, link = self._mark
        self._mark = self._visit_mark = now, linked = perf_counter(), self._stats()
        line = Clocked(
            passes=1,
            tokens=tokens,
            seconds=now - started,
            stall_s=linked.stall_s - link.stall_s,
            link_busy_s=linked.busy_s - link.busy_s,
            bytes_moved=linked.bytes_moved - link.bytes_moved,
        )
        self.spans.append((started, now))
        self.series.append({"token": len(self.series), "phase": phase, **asdict(line)})
        total = self.phases[phase]
        for name, value in asdict(line).items():
            setattr(total, name, getattr(total, name) + value)


def reference_s() -> float:
    """Seconds of a fixed single-threaded workload, the best of three.

    It depends on the machine alone: if it drifts during a run, other timings drifted with it.
    """
    best = float("inf")
    for _ in range(3):
        started = perf_counter()
        sum(number * number for number in range(50_000))
        best = min(best, perf_counter() - started)
    return best


def synchronize() -> None:
    """Synchronize the CUDA device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def begin_peak() -> None:
    """Reset the peak of device memory: a sweep's earlier cell must not count for this run."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_device_bytes() -> int | None:
    """Peak bytes that torch allocated on the device since `begin_peak`; None without a device."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def totals(link: Link, host: HostExecutor | None) -> LinkStats:
    """Return what the link has moved, and all stall: for the link and for the host."""
    stats = link.stats()
    return stats if host is None else stats._replace(stall_s=stats.stall_s + host.stall_s)
