"""Page-locked host memory, from which copies to a GPU overlap computing."""

from __future__ import annotations

import logging
from contextlib import suppress
from weakref import finalize

import torch

log = logging.getLogger(__name__)

_locked: dict[int, finalize[[int], torch.Tensor]] = {}
"""Finalizers that unlock memory before it is freed, by address."""


def pin(records: list[torch.Tensor]) -> bool:
    """Page-lock existing memory until it is freed: all of it, or none and a warning.

    Torch's own pinned memory is not used: it is allocated in powers of two, so that a layer of
    Mixtral would take 4 GB instead of 2.8.
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
                "copies come from pageable memory, slower and without overlap with computing; "
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
    """Clear the last CUDA error with a launch, or the next CUDA kernel would report it."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda").add_(1)
