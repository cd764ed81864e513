"""Computes absent experts on the host CPU, from the store's memory.

With a GPU this runs in parallel to the device. Without one, a thread stands for the host, and if a
hardware profile gives the speed of that machine's host, results are delayed to match: emulated.
"""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import finalize

import torch

from moex.link.emulated import wait_until
from moex.models import experts_interface

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from moex.store.base import ExpertStore
    from moex.types import Expert


class HostExecutor:
    """A single worker thread: experts are computed one after the other, in the background.

    The operations are the same as on the device: results are bit-equal on the same kind of
    processor; between a CPU and a GPU the rounding differs.

    Args:
        store: must hold experts in memory (`in_memory`).
        expert_s: seconds per expert on the emulated host; None: this machine's own speed.

    Raises:
        ValueError: the store does not hold experts in memory.
    """

    def __init__(self, store: ExpertStore, expert_s: float | None = None) -> None:
        if not store.in_memory:
            raise ValueError(
                f"memory.store={store.name}: computing misses on the host needs the experts in its "
                "memory; expected memory.store=ram"
            )
        self.store, self.expert_s = store, expert_s
        self.stall_s = 0.0
        """Seconds that computing has waited for results so far."""
        self._start()

    def _start(self) -> None:
        self._free_at = 0.0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=[self._jobs], name="moex-host")
        self._thread.daemon = True
        self._thread.start()
        finalize(self, self._jobs.put, None)  # also if `close` is never called

    @property
    def emulated(self) -> bool:
        """Whether results are delayed to the speed of another machine's host."""
        return self.expert_s is not None

    def begin(
        self, module: torch.nn.Module, experts: Sequence[Expert], tokens: Sequence[Tensor]
    ) -> list[_Job]:
        """Start computing; `tokens` [n, hidden] of every expert may be on any device."""
        if self.expert_s is not None:
            now = perf_counter()
            self._free_at = max(now, self._free_at) + len(experts) * self.expert_s
        on_cpu = [rows.to("cpu") for rows in tokens]  # no copy if they are on the CPU already
        jobs = [
            _Job(partial(self._compute, module, expert, rows))
            for expert, rows in zip(experts, on_cpu, strict=True)
        ]
        for job in jobs:
            self._jobs.put(job)
        return jobs

    def _compute(self, module: torch.nn.Module, expert: Expert, tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            return experts_interface.expert_output(module, tokens, self.store.tensors(expert))

    def done(self, jobs: Sequence[_Job]) -> bool:
        """Whether all results are ready, and would be on the emulated host."""
        return all(job.done for job in jobs) and perf_counter() >= self._free_at

    def finish(self, jobs: Sequence[_Job], device: torch.device) -> list[Tensor]:
        """Wait for the outputs [n, hidden], and return them on `device`."""
        started, late = perf_counter(), not self.done(jobs)
        found = [job.result().to(device, non_blocking=True) for job in jobs]
        if self.expert_s is not None:
            wait_until(self._free_at)
        if late:
            self.stall_s += perf_counter() - started
        return found

    def restart(self) -> None:
        """Start a new thread after a call was interrupted: pending results are discarded."""
        self._jobs.put(None)
        self._start()

    def close(self) -> None:
        """Stop the thread."""
        self._jobs.put(None)
        self._thread.join()


class _Job:
    """A call for the worker thread, and its result.

    Not a `Future`: Ctrl-C inside `Future.result` can leave its lock held and the thread waiting.
    """

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._call: Callable[[], Tensor] | None = call
        self._found: list[Tensor] = []
        self._error: BaseException | None = None
        self.done = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def run(self) -> None:
        try:
            assert self._call is not None
            self._found.append(self._call())
        except BaseException as error:
            self._error = error
        finally:
            self._call, self.done = None, True
            self._ended.release()

    def result(self) -> Tensor:
        if not self.done:
            self._ended.acquire()
        if self._error is not None:
            raise self._error
        return self._found[0]


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
