"""What a link is: it moves the bytes of loads and says when they are there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Iterable

    from moex.types import Plan


class LinkStats(NamedTuple):
    """What a link has done so far: bytes that really moved, seconds in which it moved any."""

    bytes_moved: int
    busy_s: float


class Link(ABC):
    """Executes plans. Decides nothing: what to load into which place stands in the plan.

    Nothing is cancelled, only overtaken: demand passes speculation at chunk boundaries, and a
    speculative load that has left the books before it began is never sent.
    """

    name: str = ""
    emulated: bool = False

    io: str | None = None
    """How it reads files where not in the store's own way: `aio`, by the kernel."""

    @property
    def pinned(self) -> bool | None:
        """Whether its source is page-locked; None where that makes no difference."""
        return None

    log: deque[tuple[Any, ...]] | None = None
    """Where the link writes down what it does, in the tuples of `runner/timeline.py`."""

    @abstractmethod
    def submit(self, plan: Plan) -> None:
        """Forget the plan's dropped guesses and begin its loads."""

    @abstractmethod
    def wait(self, slot: int) -> float:
        """Return when what was last loaded into the place is there; seconds waited, 0 if it was."""

    in_parts: bool = False
    """Whether `wait_part` returns before all of a load is there."""

    def wait_part(self, slot: int, size: int) -> float:
        """Like `wait`, but the first `size` bytes are enough; all of it is waited for later."""
        return self.wait(slot)

    def used(self, slot: int) -> None:
        """Be told that what computes from the place has been launched: it may be loaded after."""

    def collect_stall(self) -> float:
        """Seconds waited since the last call that `wait` could not tell; 0 where it tells all."""
        return 0.0

    @abstractmethod
    def restart(self) -> None:
        """Begin anew after a call was interrupted, wherever that was; statistics go on.

        When it returns nothing that was asked for before is under way: no copy into a slot, and no
        reader of one. Threads that died are replaced.

        Raises:
            RuntimeError: a copy does not end, so its slot cannot be used again.
        """

    @abstractmethod
    def stats(self) -> LinkStats:
        """Bytes and seconds since the link was made."""

    def close(self) -> None:
        """Stop threads and give back what the link holds."""


STUCK_S = 10.0
"""How long `restart` waits for a copy that has begun."""


def join(threads: Iterable[threading.Thread], link: str) -> None:
    """Wait for a link's threads, which were told to stop.

    Raises:
        RuntimeError: one of them is stuck.
    """
    for thread in threads:
        if thread.is_alive():  # one whose start was interrupted is not
            thread.join(STUCK_S)
        if thread.is_alive():
            raise RuntimeError(
                f"link={link}: a copy that has begun does not end ({STUCK_S:.0f} s), so its slot "
                "cannot be used again; expected storage that answers; load the model anew"
            )


def refuse_other_streams(records: torch.Tensor, link: str) -> None:
    """Refuse to be called on a stream of the user's own where the link's threads copy to a GPU.

    They copy on the default stream, whose order alone keeps a copy and what computes apart.

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
