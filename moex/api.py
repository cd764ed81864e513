"""The Python API of moex, without Hydra: for notebooks and other programs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.decisions.rows import known_break_even
from moex.paths import trace_path
from moex.sim.replay import decode_lower_bound_s, replay, replay_in_shards
from moex.sim.scaled import costs_line, scaled
from moex.trace.files import open_trace
from moex.trace.format import Trace, write_trace
from moex.trace.format import read_trace as _read_trace
from moex.trace.stream import TraceStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from moex.cache.base import CachePolicy
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.quant.base import Scheme
    from moex.routing.base import RoutingPolicy
    from moex.runner.offloaded import OffloadedModel
    from moex.runs.report import Report
    from moex.sim.curves import Curve
    from moex.sparsity.base import NeuronSelector
    from moex.types import Future, Plan

__all__ = ["curves", "load", "open_trace", "read_trace", "simulate", "write_trace"]


def read_trace(path: str | Path) -> Trace:
    """Read a trace file, or a bundled trace by its name ("tiny")."""
    return _read_trace(trace_path(str(path)))


def load(
    name: str = "tiny",
    cache: CachePolicy | None = None,
    slots: int | float | list[int] | None = 0.5,
    prefetch: Prefetcher | None = None,
    *,
    budget: int | float | str | None = None,
    pool: str = "layer",
    staging: int | None = None,
    store: str = "auto",
    cache_dir: str | Path | None = None,
    reader_threads: int = 1,
    hardware: HardwareProfile | None = None,
    quant: Scheme | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    seed: int = 0,
    future: Future | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    miss: MissHandler | None = None,
    sparsity: NeuronSelector | None = None,
    rows: float = 1.0,
    break_even: float | None = None,
    link: str = "auto",
    governor: bool = True,
    routing: RoutingPolicy | None = None,
    host: int | str | None = None,
    host_policy: str = "lru",
    tiers: str = "inclusive",
) -> OffloadedModel:
    """Load a model whose experts stay off the device; use it as a context manager.

    ```python
    with moex.load("tiny", cache=LRU(), slots=4, prefetch=Gate()) as model:
        model.generate(...)
    ```

    For inference only: gradients through the experts, copying and pickling are refused, and the
    model is never compiled, even where transformers would (a static KV cache on a GPU).

    Args:
        name: a bundled model ("tiny"), a local folder, or a hub repository.
        cache: the eviction policy; default LRU.
        slots: experts per layer on the device, 0 or more; a fraction below 1 is a share of the
            layer's experts; a list has one number for each layer.
        prefetch: the prefetcher; default none. An oracle needs the future first:
            `prefetch.set_future(read_trace(...))`.
        budget: instead of slots (`slots=None`), bytes such as "6GiB" or a fraction of the model.
        pool: "layer", or "global" for one pool of `slots * layers`.
        staging: staging slots for loads in flight; default twice the model's top-k.
        store: where all experts are kept: "ram", "disk", "auto" (disk if there is no CUDA), or the
            dotted name of a class.
        cache_dir: folder of packed experts for "disk"; default $MOEX_CACHE or the user's cache.
        reader_threads: threads that read large experts from the disk.
        hardware: a profile whose link is emulated; default this machine's own link.
        quant: a quantizer for all weights, or a scheme of several; default 16 bits.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: device of the skeleton and the slots.
        seed: seed of random policies.
        future: recorded visits, for oracles (`read_trace(...).future()`).
        on_plan: called with every plan that is executed.
        miss: how absent experts are handled; default: they are fetched.
        sparsity: selects the neurons that count for a token; default all.
        rows: with `sparsity`, the share of an expert's neurons that a slot holds.
        break_even: with `sparsity`, the share of rows from which whole experts are moved; default:
            the hardware profile's value for the store, else what is measured here once.
        link: what moves experts: "auto", a file of `moex/link`, or the dotted name of a class.
        governor: whether prefetching is paused while too few prefetches are used, and never begun
            where the link copies nothing while the device computes.
        routing: which experts a token asks for; default: those that its router chose.
        host: bytes ("16GiB") of a cache of experts in host memory, between disk and device.
        host_policy: the eviction policy of that cache, by its file in `moex/cache`.
        tiers: "inclusive", or "exclusive": what is on the device is not in that cache.
    """
    from moex.runner.assemble import Setup, load_model, offload
    from moex.store.base import store_class

    memory = Memory(
        slots,
        budget,
        pool,
        staging,
        store,
        reader_threads,
        rows,
        break_even,
        None,
        link,
        host,
        host_policy,
        tiers,
    )
    selector = sparsity if sparsity is not None and sparsity.mode != "exact" else None
    known = known_break_even(memory, hardware, store_class(store).name)
    fraction = selector.share if selector is not None and rows == 1 else 0.0
    loaded = load_model(
        name,
        dtype,
        device,
        store,
        cache_dir,
        quant=quant,
        bundles=selector is not None,
        break_even=known,
        fraction=fraction,
    )
    with ExitStack() as stack:
        stack.callback(loaded.store.close)
        chosen = cache or LRU(), memory, prefetch, hardware, seed, miss, selector
        setup = Setup(*chosen, governor, routing)
        offloaded = offload(loaded, setup, future, on_plan=on_plan)
        offloaded.closing = stack.pop_all()
    return offloaded


def simulate(
    trace: Trace | TraceStream | str | Path | Sequence[str | Path],
    cache: CachePolicy | None = None,
    slots: int | float | list[int] | None = 0.5,
    prefetch: Prefetcher | None = None,
    *,
    pool: str = "layer",
    staging: int | None = None,
    hardware: HardwareProfile | None = None,
    seed: int = 0,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    miss: MissHandler | None = None,
    sparsity: bool = False,
    rows: float = 1.0,
    break_even: float | None = None,
    governor: bool = True,
    shards: int = 1,
    routing: RoutingPolicy | None = None,
    host: int | str | None = None,
    host_policy: str = "lru",
    tiers: str = "inclusive",
) -> Report:
    """Replay a trace (or its files, see `open_trace`) through the same cache; oracles know it all.

    The arguments are those of `load`; `cold` empties the cache before every sequence, `sparsity`
    moves only the rows that the recorded run selected; `hardware`'s costs are scaled to the trace's
    model; `routing` chooses anew from recorded router rows; `shards` replays a cold trace in so
    many shards of sequences. Does not load torch.
    """
    trace = trace if isinstance(trace, Trace | TraceStream) else open_trace(trace)
    memory = Memory(slots, None, pool, staging, rows=rows, break_even=break_even)
    memory = replace(memory, host=host, host_policy=host_policy, tiers=tiers)
    overlaps = trace.provenance.get("overlaps") is not False
    chosen = cache or LRU(), memory, prefetch, miss, seed, 0.0 if sparsity else None
    decisions = Decisions(*chosen, governor=governor, overlaps=overlaps, routing=routing)
    here = None if hardware is None else scaled(hardware, trace)
    if shards > 1:
        report = replay_in_shards(decisions, trace, shards, here, cold)
    else:
        report = replay(decisions, trace, here, cold, on_plan)
    report.decode_lower_bound_s = decode_lower_bound_s(decisions, trace, here, cold)
    report.costs = None if hardware is None else costs_line(hardware, trace)
    return report


def curves(
    trace: Trace | str | Path,
    *policies: CachePolicy,
    slots: Sequence[int] | None = None,
    pool: str = "layer",
    cold: bool = False,
    phase: str = "decode",
    seed: int = 0,
) -> list[Curve]:
    """Return the miss-ratio curve of each policy, without prefetching; default that of LRU.

    A curve has hits at every capacity: by default from top-k slots a layer up to all experts. The
    arguments are those of `simulate`; `phase` says which accesses are counted.
    """
    from moex.sim.policy_curves import policy_curve  # loads the compiler

    trace = trace if isinstance(trace, Trace) else read_trace(trace)
    settings = slots, pool, cold, phase, seed
    return [policy_curve(trace, policy, *settings) for policy in policies or (LRU(),)]
