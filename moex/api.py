"""The Python API of moex, without Hydra: for notebooks and other programs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.rows import known_break_even
from moex.named import parts, slots_of
from moex.paths import trace_path
from moex.replays import curves, simulate
from moex.trace.files import open_trace
from moex.trace.format import Trace, write_trace
from moex.trace.format import read_trace as _read_trace
from moex.trace.importers.import_trace import import_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from moex.cache.base import CachePolicy
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.quant.base import Scheme
    from moex.routing.base import RoutingPolicy
    from moex.runner.offloaded import OffloadedModel
    from moex.sparsity.base import NeuronSelector
    from moex.types import Future, Plan

__all__ = [
    "curves",
    "import_trace",
    "load",
    "open_trace",
    "read_trace",
    "simulate",
    "write_trace",
]


def read_trace(path: str | Path) -> Trace:
    """Read a trace file, or a bundled trace by its name ("tiny")."""
    return _read_trace(trace_path(str(path)))


def load(
    name: str = "tiny",
    cache: CachePolicy | str | None = None,
    slots: int | float | list[int] | None = None,
    prefetch: Prefetcher | str | None = None,
    *,
    budget: int | float | str | None = None,
    pool: str = "layer",
    staging: int | None = None,
    store: str = "auto",
    cache_dir: str | Path | None = None,
    reader_threads: int = 1,
    hardware: HardwareProfile | str | None = None,
    quant: Scheme | str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    seed: int = 0,
    future: Future | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    miss: MissHandler | str | None = None,
    sparsity: NeuronSelector | str | None = None,
    rows: float = 1.0,
    break_even: float | None = None,
    link: str = "auto",
    governor: bool = True,
    routing: RoutingPolicy | str | None = None,
    host: int | str | None = None,
    host_policy: str = "lru",
    tiers: str = "inclusive",
) -> OffloadedModel:
    """Load a model whose experts stay off the device; use it as a context manager.

    ```python
    with moex.load("tiny", cache="lru", prefetch="gate", slots=4) as model:
        model.generate(...)
    ```

    A part is a name of the command line (`cache="lru"` is `cache=lru`), or an instance
    (`moex.LRU()`). The value has `report()`, the result row of what was called so far; it can be
    asked for after the block, too: `with (offloaded := moex.load(...)) as model: ...`.

    For inference only: gradients through the experts, copying and pickling are refused, and the
    model is never compiled, even where transformers would (a static KV cache on a GPU).

    Args:
        name: a bundled model ("tiny"), a local folder, a GGUF file, or a hub repository.
        cache: the eviction policy; default LRU.
        slots: experts per layer on the device, 0 or more; a fraction below 1 is a share of the
            layer's experts; a list has one number for each layer; default half of them, unless a
            budget is given.
        prefetch: the prefetcher; default none. An oracle needs the future first:
            `prefetch.set_future(read_trace(...))`.
        budget: instead of slots, bytes such as "6GiB" or a fraction of the model.
        pool: "layer", or "global" for one pool of `slots * layers`.
        staging: staging slots for loads in flight; default twice the model's top-k.
        store: where all experts are kept: "ram", "disk", "auto" (disk if there is no CUDA), or the
            dotted name of a class.
        cache_dir: folder of packed experts for "disk"; default $MOEX_CACHE or the user's cache.
        reader_threads: threads that read large experts from the disk.
        hardware: a profile whose link is emulated; default this machine's own link.
        quant: a quantizer for all weights, or a scheme of several; default 16 bits.
        dtype: "auto", "float32", "bfloat16" or "float16", or torch's own.
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

    Raises:
        ValueError: a name that stands for no part, or settings that cannot be combined.
        TypeError: a class where an instance belongs, or something else.
        FileNotFoundError: no such model.
    """
    given = parts(
        cache=cache,
        prefetch=prefetch,
        hardware=hardware,
        quant=quant,
        miss=miss,
        sparsity=sparsity,
        routing=routing,
    )
    machine = given["hardware"]
    if machine is not None and machine.measured_here:
        raise ValueError(
            f"hardware={machine.name}: is measured by a run of the command line; expected a "
            "profile with a link of its own; try hardware='t4'"
        )
    from moex.bench.calls import reporter, time_calls
    from moex.runner.assemble import Setup, load_model, offload
    from moex.store.base import store_class

    sizes = budget, pool, staging, store, reader_threads, rows, break_even, None, link
    below = host, host_policy, tiers
    memory = Memory(slots_of(slots, budget), *sizes, *below)
    asked = given["sparsity"]
    selector = asked if asked is not None and asked.mode != "exact" else None
    known = known_break_even(memory, machine, store_class(store).name)
    fraction = selector.share if selector is not None and rows == 1 else 0.0
    loaded = load_model(
        name,
        str(dtype).removeprefix("torch."),
        device,
        store,
        cache_dir,
        quant=given["quant"],
        bundles=selector is not None,
        break_even=known,
        fraction=fraction,
    )
    with ExitStack() as stack:
        stack.callback(loaded.store.close)
        chosen = given["cache"] or LRU(), memory, given["prefetch"], machine, seed
        setup = Setup(*chosen, given["miss"], selector, governor, given["routing"])
        offloaded = offload(loaded, setup, future, on_plan=on_plan)
        offloaded.report = reporter(offloaded, loaded, setup, name)
        stack.callback(time_calls(offloaded))
        offloaded.closing = stack.pop_all()
    return offloaded
