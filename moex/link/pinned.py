"""Page-locked host memory, which a GPU copies from beside computing."""

from __future__ import annotations

import logging
from contextlib import suppress
from weakref import finalize

import torch

log = logging.getLogger(__name__)

_locked: dict[int, finalize[[int], torch.Tensor]] = {}
"""What unlocks what is locked, by its address: before its memory is given back."""


def pin(records: list[torch.Tensor]) -> bool:
    """Page-lock memory where it is, until it is given back; all of it, or nothing and a notice.

    Not through torch's own pinned memory: that is handed out in powers of two, and a layer of
    Mixtral would take 4 GB for 2.8.
    """
    locked: list[finalize[[int], torch.Tensor]] = []
    for record in records:
        address = record.data_ptr()
        if address in _locked:
            continue
        code = int(torch.cuda.cudart().cudaHostRegister(address, record.nbytes, 0))
        if code:
            log.warning(
                "moex: the driver pins no more host memory (error %d after %d of %d layers): "
                "copies come from pageable memory, slower and not beside computing; "
                "try memory.store=disk, or a higher limit of locked memory (ulimit -l)",
                code,
                len(locked),
                len(records),
            )
            for each in locked:
                each()
            forget_error()
            return False
        locked.append(finalize(record, _unlock, address))
        locked[-1].atexit = False
        _locked[address] = locked[-1]
    return True


def _unlock(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)
    del _locked[address]


def forget_error() -> None:
    """Let a launch report the last error, or the next kernel's would report it as its own."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda").add_(1)
