"""Puts a model's parts together: cache, slots, link, neurons, host."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from moex.cache.capacity import Memory
from moex.cache.core import ExpertCache
from moex.link.aio import AioLink, reads_alone
from moex.link.copy import CopyLink
from moex.link.cuda import CudaLink
from moex.link.disk import DiskLink
from moex.link.emulated import EmulatedLink
from moex.miss.fetch import Fetch
from moex.runner.budget import needs, process_bytes, skeleton_bytes
from moex.runner.hosts import HostLane
from moex.runner.model import OffloadedModel
from moex.runner.parts import Parts as Parts  # noqa: TC001 - others take it from here
from moex.runner.parts import load_parts as load_parts
from moex.runner.rows import Neurons
from moex.sim.rows import row_cache
from moex.store.bundles import Bundles, PackedBundles
from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packed_rows import PackedRowSlots
from moex.store.ram import RamStore
from moex.store.rows import RowSlots
from moex.store.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moex.cache.base import CachePolicy
    from moex.link.base import Link
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.sim.hardware import HardwareProfile
    from moex.sparsity.base import NeuronSelector
    from moex.types import Expert, Future, Plan


def offload(
    parts: Parts,
    policy: CachePolicy,
    memory: Memory | None = None,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    seed: int = 0,
    future: Future | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    miss: MissHandler | None = None,
    selector: NeuronSelector | None = None,
    lengths: tuple[int, int, int] = (0, 0, 1),
) -> OffloadedModel:
    """Make an offloaded model of loaded parts; a timed hardware profile emulates its link.

    With a neuron selector the parts must have been loaded with `bundles`. `lengths` (prompt tokens,
    new tokens, batch size) are what a budget reserves a KV cache for.

    Raises:
        ValueError: parts that do not go together.
    """
    memory, miss = memory or Memory(), (miss or Fetch()).bound(parts.geometry, hardware)
    bind_selector(parts, selector)
    if selector is not None and (miss.on_host or miss.lossy):
        raise ValueError(
            f"miss={type(miss).__name__.lower()}: does not work with a neuron selector, whose "
            "absent rows are fetched; try miss=fetch, or sparsity=none"
        )
    if prefetcher is not None:
        prefetcher.bind(parts.geometry, parts.folder, selector)
    predictors = sum(each.device_bytes for each in (selector, prefetcher) if each)
    # Buffers stand only in the first, packed linear layers maybe only in the second.
    skeleton = max(skeleton_bytes(parts.model), parts.skeleton_bytes)
    pool = parts.geometry.layers * parts.geometry.experts * parts.layout.bytes
    held = skeleton + (pool if parts.store.in_memory else 0)
    process = process_bytes(parts.device, hardware, held)
    wanted = needs(parts.model, parts.geometry, *lengths, predictors, skeleton, process)
    cache = ExpertCache(
        policy,
        parts.geometry,
        memory.resolve(parts.geometry, wanted),
        memory.pool,
        memory.staging,
        seed,
        future,
        miss.split,
    )
    neurons: Neurons | None = None
    slots: Slots
    if selector is not None and isinstance(parts.layout, Bundles):
        books = row_cache(cache, memory, hardware, parts.store.name)
        kind = PackedRowSlots if isinstance(parts.layout, PackedBundles) else RowSlots
        slots = kind(parts.layout, books.capacity, cache.places, parts.device)
        neurons = Neurons(selector, books, slots)
    else:
        memory.refuse_rows()
        assert isinstance(parts.layout, Planes)
        slots = _slots(parts, parts.layout, cache.places)
    link: Link
    if hardware is not None and hardware.timed:
        link = EmulatedLink(parts.store, slots, hardware)
    elif isinstance(parts.store, DiskStore):
        link = _disk_link(parts.store, slots, memory, hardware)
    elif isinstance(parts.store, RamStore) and slots.records.is_cuda and neurons is None:
        link = CudaLink(parts.store, slots)
    else:
        link = CopyLink(parts.store, slots)
    with ExitStack() as stack:
        stack.callback(link.close)
        host = _host_lane(parts, hardware) if miss.on_host else None
        offloaded = OffloadedModel(
            *(parts.model, parts.layers, cache, slots, link, prefetcher, neurons, on_plan, host)
        )
        stack.pop_all()
    offloaded.planned_bytes = wanted.total + slots.bytes
    return offloaded


def _disk_link(
    store: DiskStore, slots: Slots, memory: Memory, hardware: HardwareProfile | None
) -> Link:
    chunk = () if hardware is None else (hardware.chunk_bytes,)
    if slots.records.device.type == "cpu" and reads_alone(store, *chunk):
        return AioLink(store, slots)
    return DiskLink(store, slots, memory.reader_threads, *chunk)


def _slots(parts: Parts, layout: Planes, places: int) -> Slots:
    try:
        return Slots(layout, places, parts.device)
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"memory: {places} places of {parts.layout.bytes} bytes do not fit on {parts.device}; "
            "expected slots, staging and everything else to fit; try memory.slots=null and "
            "memory.budget= with what the device has free"
        ) from error


def _host_lane(parts: Parts, hardware: HardwareProfile | None) -> HostLane:
    """The host that computes misses: this one, or the profile's, emulated."""
    if hardware is None or not hardware.timed:
        return HostLane(parts.store)
    expert_s = hardware.host_seconds(parts.layout.bytes)
    if expert_s is None:
        raise ValueError(
            f"hardware={hardware.name}: does not say how fast its host computes an expert; "
            "try hardware.host_expert_s=0.002, or hardware=auto for this machine's own speed"
        )
    return HostLane(parts.store, expert_s)


def bind_selector(parts: Parts, selector: NeuronSelector | None) -> None:
    """Let a neuron selector meet the model.

    Raises:
        ValueError: the parts were loaded for a selector and there is none, or the other way round.
    """
    layout, store = parts.layout, parts.store
    if (selector is not None) != isinstance(layout, Bundles):
        raise ValueError(
            f"model: loaded with bundles={isinstance(layout, Bundles)} and used "
            f"{'with' if selector else 'without'} a neuron selector; expected bundles=True for a "
            "selector (whose mode is not exact) and bundles=False without"
        )
    if selector is None:
        return

    def weights(expert: Expert) -> dict[str, Tensor]:
        return layout.weights(store.gather(expert, None).to(parts.device))

    needed = weights if "weights" in selector.needs else None
    selector.bind(parts.geometry, parts.folder, needed)


def fits(size: int, device: str) -> bool:
    """Whether so many bytes fit on the device with as much to spare again."""
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * size < free
