"""A cache of experts in host memory, in front of a store of files."""

from __future__ import annotations

from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING

from moex.store.base import ExpertStore
from moex.store.slots import paged

if TYPE_CHECKING:
    import torch

    from moex.store.slots import Slots
    from moex.types import Expert, Plan, Source


class HostTierStore(ExpertStore):
    """Executes what the host tier decided (`moex.cache.variants.tiers`); decides nothing.

    A plan says which host slot holds an expert, or is filled by its load. Whether the bytes are
    there is known here alone: a prefetch that was dropped before it began has filled nothing, and a
    slot may be filled anew while a load that found its expert there still waits. Such a load reads
    from the disk. Any number of threads may read at once.

    Args:
        disk: the store of all experts.
        slots: host slots.

    Raises:
        ValueError: the store holds all experts in memory.
        RuntimeError: the host has too little memory.
    """

    in_pieces = False

    def __init__(self, disk: ExpertStore, slots: int) -> None:
        if disk.io is None:
            raise ValueError(
                f"memory.host: memory.store={disk.name} holds all experts in host memory; expected "
                "a store of files; try memory.store=disk, or memory.host=null"
            )
        self.disk, self.name, self.io = disk, disk.name, disk.io
        self.layout, self.geometry = disk.layout, disk.geometry
        try:
            memory = paged(slots * disk.layout.bytes)
        except (RuntimeError, MemoryError) as error:
            raise RuntimeError(
                f"memory.host: {slots} host slots take {slots * disk.layout.bytes / 1e9:.2f} GB, "
                "more than the host has free; try a smaller memory.host"
            ) from error
        self.records = memory.view(slots, disk.layout.bytes)
        self._owners: list[Expert | None] = [None] * slots
        """By slot: the expert that it was given to."""
        self._held: list[Expert | None] = [None] * slots
        """By slot: the expert whose bytes it holds."""
        self._locks = [Lock() for _ in range(slots)]
        self._sources: dict[Expert, Source] = {}
        self._count = Lock()
        self.bytes_read = self.bytes_copied = 0
        self.read_s = self.copied_s = 0.0
        """Bytes and seconds of reads from the disk, and of copies from host memory."""

    def take(self, plan: Plan, slots: Slots) -> None:
        """Copy what a plan demotes from the device, and note where its loads come from."""
        for expert, slot, host_slot in plan.demoted:
            with self._locks[host_slot]:
                self.records[host_slot].copy_(slots.records[slot])
                self._owners[host_slot] = self._held[host_slot] = expert
        for load, source in zip(plan.loads, plan.sources, strict=True):
            self._sources[load.expert] = source
            if source.slot >= 0:
                self._owners[source.slot] = load.expert

    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Copy the expert's record into `out`, from its host slot or from the disk."""
        source = self._sources.get(expert)
        if source is None or source.slot < 0:
            self._read(expert, out)
            return
        slot = source.slot
        with self._locks[slot]:
            held = source.hit and self._held[slot] == expert
            if not held and self._owners[slot] == expert:
                self._held[slot] = None
                self._read(expert, self.records[slot])
                self._held[slot] = expert
                held = True
            if held:
                started = perf_counter()
                out.copy_(self.records[slot])
                took = perf_counter() - started
                with self._count:
                    self.bytes_copied += len(out)
                    self.copied_s += took
                return
        self._read(expert, out)

    def _read(self, expert: Expert, out: torch.Tensor) -> None:
        started = perf_counter()
        self.disk.read(expert, out)
        took = perf_counter() - started
        with self._count:
            self.bytes_read += len(out)
            self.read_s += took

    @property
    def rates(self) -> dict[str, float | None]:
        """Bytes/s of reads from the disk, and of copies from host memory, as a row has them."""
        return {
            "disk_bytes_per_s": self.bytes_read / self.read_s if self.read_s else None,
            "host_copy_bytes_per_s": self.bytes_copied / self.copied_s if self.copied_s else None,
        }

    def close(self) -> None:
        """Free the host slots; the store of files belongs to who opened it."""
        self.records, self._held = self.records[:0].clone(), [None] * len(self._held)
