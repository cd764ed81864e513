"""The host as a second engine: it computes absent experts from its own memory.

Beside a GPU that is what it really is. On a machine without one, a thread plays the host, and where
a profile says how fast that machine's host is, results are held back until then: emulated.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from moex.link.emulated import wait_until
from moex.runner import hf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from moex.store.base import ExpertStore
    from moex.types import Expert


class HostLane:
    """One lane: experts given to it are computed one after the other, beside everything else.

    The arithmetic is the device's, so on one kind of processor no bit changes; between a CPU and a
    GPU the rounding differs.

    Args:
        store: must have `tensors`, i.e. hold experts in memory.
        expert_s: seconds of one expert on the host that is emulated; None: as fast as it is here.

    Raises:
        ValueError: the store has no memory to compute from.
    """

    def __init__(self, store: ExpertStore, expert_s: float | None = None) -> None:
        if not store.in_memory:
            raise ValueError(
                f"memory.store={store.name}: computing misses on the host needs the experts in its "
                "memory; expected memory.store=ram"
            )
        self.store, self.expert_s = store, expert_s
        self._pool = ThreadPoolExecutor(1, "moex-host")
        self._free_at = 0.0

    @property
    def emulated(self) -> bool:
        """Whether results come when another machine's host would have them."""
        return self.expert_s is not None

    def begin(
        self, module: torch.nn.Module, experts: Sequence[Expert], tokens: Sequence[Tensor]
    ) -> list[Future[Tensor]]:
        """Start computing; `tokens` [n, hidden] of every expert may be on the device."""
        if self.expert_s is not None:
            now = perf_counter()
            self._free_at = max(now, self._free_at) + len(experts) * self.expert_s
        here = [rows.to("cpu") for rows in tokens]  # no copy where they are there already
        return [
            self._pool.submit(self._compute, module, expert, rows)
            for expert, rows in zip(experts, here, strict=True)
        ]

    def _compute(self, module: torch.nn.Module, expert: Expert, tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            return hf.expert_output(module, tokens, self.store.tensors(expert))

    def done(self, results: Sequence[Future[Tensor]]) -> bool:
        """Whether the results are there, and could be on the emulated host."""
        return all(result.done() for result in results) and perf_counter() >= self._free_at

    def finish(self, results: Sequence[Future[Tensor]], device: torch.device) -> list[Tensor]:
        """Return the outputs [n, hidden] on the device, not before the host could have them."""
        found = [result.result().to(device, non_blocking=True) for result in results]
        if self.expert_s is not None:
            wait_until(self._free_at)
        return found

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown()
