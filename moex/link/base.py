"""The interface of a link: it moves the bytes of loads and reports when they have arrived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch

from moex.paths import plug_in, plug_ins

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Iterable

    from moex.cache.memory import Memory
    from moex.hardware.profile import HardwareProfile
    from moex.store.base import ExpertStore
    from moex.store.slots import Slots
    from moex.types import Plan


class LinkStats(NamedTuple):
    """Totals: bytes that really moved, seconds in which any were moving, seconds of stall."""

    bytes_moved: int = 0
    busy_s: float = 0.0
    stall_s: float = 0.0


class Link(ABC):
    """Executes plans. It decides nothing: the plan says what to load into which slot.

    A load in flight is never cancelled, only overtaken: demand passes prefetches at chunk
    boundaries. A prefetch that the cache dropped before its transfer began is never sent.
    """

    name: str = ""

    overlaps: bool = True
    """Whether it copies while the device computes; if not, a prefetch hides nothing."""

    emulated: bool = False
    """Whether it delays arrivals to those of a timed hardware profile; used for these only."""

    rank: ClassVar[int] = 0
    """`memory.link=auto` takes the highest of the links that suit; 0: only by its name."""

    @classmethod
    def suits(cls, store: ExpertStore, slots: Slots, hardware: HardwareProfile | None) -> bool:
        """Whether it can move this store's records into these slots."""
        return True

    @classmethod
    def open(
        cls, store: ExpertStore, slots: Slots, memory: Memory, hardware: HardwareProfile | None
    ) -> Self:
        """Make the link, with what it needs of the settings."""
        return cls(store, slots)  # type: ignore[call-arg]

    io: str | None = None
    """How it reads files if not by the store's own method: `aio` for Linux asynchronous I/O."""

    @property
    def pinned(self) -> bool | None:
        """Whether the source memory is page-locked; None where that makes no difference."""
        return None

    stall_s: float = 0.0
    """Seconds that computing has waited for the link so far; `stats` brings them up to date."""

    log: deque[tuple[Any, ...]] | None = None
    """Event log of the link, in the tuples of `bench/timeline.py`; None: not recorded."""

    @abstractmethod
    def submit(self, plan: Plan) -> None:
        """Cancel stale loads (`Plan.stale`) that have not begun, and start the plan's loads."""

    @abstractmethod
    def wait(self, slot: int) -> bool:
        """Wait for the last load into the slot; returns whether it was late, which is stall."""

    in_parts: bool = False
    """Whether `wait_part` can return before the whole load has arrived."""

    def wait_part(self, slot: int, size: int) -> bool:
        """Like `wait`, for the first `size` bytes only; call `wait` for the rest later."""
        return self.wait(slot)

    def used(self, slot: int) -> None:
        """Note that the computation reading the slot was launched: later loads may overwrite it."""

    def stalled(self, label: object, started: float, seconds: float) -> None:
        """Count seconds that computing waited for a load; links call it, once for every wait."""
        self.stall_s += seconds
        if self.log is not None:
            self.log.append(("stall", label, started, seconds))

    @abstractmethod
    def restart(self) -> None:
        """Reset after a call was interrupted at any point; the totals of `stats` are kept.

        When it returns, nothing requested before is in flight: no copy into a slot and no reader
        of one. Threads that died are replaced.

        Raises:
            RuntimeError: a copy does not finish, so its slot cannot be used again.
        """

    @abstractmethod
    def stats(self) -> LinkStats:
        """Totals since the link was created."""

    def close(self) -> None:
        """Stop the threads and release what the link holds."""


def open_link(
    store: ExpertStore, slots: Slots, memory: Memory, hardware: HardwareProfile | None = None
) -> Link:
    """Open the link that `memory.link` names; auto: of those that suit, the one of highest rank.

    Raises:
        ValueError: the named one does not suit store, slots or hardware.
    """
    words = [*plug_ins("link", "Link")] if memory.link == "auto" else [memory.link]
    kinds = [plug_in("memory.link", word, "link", "Link") for word in words]
    timed = hardware is not None and hardware.timed
    suited = [
        kind for kind in kinds if kind.emulated == timed and kind.suits(store, slots, hardware)
    ]
    if not suited:
        of = f" of hardware={hardware.name}" if hardware is not None and timed else ""
        raise ValueError(
            f"memory.link={memory.link}: is no link{of} from memory.store={store.name} to these "
            f"slots on {slots.records.device}; try memory.link=auto"
        )
    link: Link = max(suited, key=lambda kind: kind.rank).open(store, slots, memory, hardware)
    return link


STUCK_S = 10.0
"""Seconds that `restart` waits for a copy in flight."""


def join(threads: Iterable[threading.Thread], link: str) -> None:
    """Wait for a link's threads, which were asked to stop.

    Raises:
        RuntimeError: a thread does not stop within `STUCK_S` seconds.
    """
    for thread in threads:
        if thread.is_alive():  # a thread whose start was interrupted is not alive
            thread.join(STUCK_S)
        if thread.is_alive():
            raise RuntimeError(
                f"link={link}: a copy in flight did not finish within {STUCK_S:.0f} s, so its slot "
                "cannot be used again; expected storage that responds; load the model again"
            )


def refuse_other_streams(records: torch.Tensor, link: str) -> None:
    """Refuse a non-default CUDA stream where the link's threads copy to a GPU.

    They copy on the default stream: only its order separates a copy from the computation.

    Raises:
        RuntimeError: another stream is current.
    """
    if not records.is_cuda:
        return
    device = records.device
    if torch.cuda.current_stream(device) != torch.cuda.default_stream(device):
        raise RuntimeError(
            f"link={link}: copies on the default stream of {device}, but another one is current; "
            "compute on the default stream, or try memory.store=ram hardware=auto"
        )
