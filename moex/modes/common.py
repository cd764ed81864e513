"""What several modes do: load the model, build its setup, assign the cores."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from moex.decisions.rows import known_break_even
from moex.decisions.together import one_slice
from moex.miss.base import SliceHandler
from moex.paths import cache_folder
from moex.quant.base import in_slices
from moex.runs.atomic import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moex.bench.workload import Workload
    from moex.cache.memory import Needs
    from moex.hardware.scale_model import ScaleModel
    from moex.modes.run import Run
    from moex.runner.assemble import LoadedModel, Setup
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream
    from moex.types import Geometry


PARTIAL = "series.partial.jsonl"
"""What a run that was stopped had measured; gone once a run in the folder has finished."""


def load(run: Run, store: str = "ram", whole: bool = False) -> LoadedModel:
    """The run's model: its skeleton in memory, its experts in a store.

    Neuron by neuron if a selector is named, unless only whole experts are asked for.
    """
    from moex.runner.assemble import load_model
    from moex.store.base import store_class

    model, quant = run.model, run.quant
    if isinstance(run.miss, SliceHandler) and not in_slices(quant):
        raise one_slice(run.miss)
    where = (store, run.cache_dir, model.keep_shards, model.random())
    bundles = run.selects and not whole
    share = run.selector.share if run.selector and run.memory.rows == 1 and not whole else 0.0
    known = known_break_even(run.memory, run.hardware, store_class(store).name)
    return load_model(model.name, model.dtype, model.device, *where, quant, bundles, known, share)


def shrunk(run: Run) -> Workload:
    """The workload, or the least of it where everything is to be shrunk (`smoke=true`)."""
    if not run.smoke:
        return run.workload
    return replace(run.workload, limit=1, batch_size=1, new_tokens=4, warmup=0, repeats=1)


def measure_hardware(run: Run) -> None:
    """Time a layer here where the profile's link depends on it; once, and kept.

    Raises:
        ValueError: a mode without a live run.
    """
    if not run.hardware.measured_here:
        return
    if run.mode.name not in ("live", "verify"):
        raise ValueError(
            f"hardware={run.hardware.name}: is measured here in a live run; expected mode=live; "
            f"for mode={run.mode.name} try hardware=toy"
        )
    from moex.calibrate.scale_model import resolve

    set_threads(run, 1)  # one core is the link's
    cache = Path(run.cache_dir or cache_folder()).expanduser()
    profile = cast("ScaleModel", run.hardware)
    run.hardware = resolve(profile, run.model.name, run.model.dtype, run.model.device, cache=cache)


def make_setup(run: Run, workload: Workload) -> Setup:
    """How experts are offloaded."""
    from moex.runner.assemble import Setup

    chosen = run.cache, run.memory, run.prefetch, run.hardware, run.seed, run.miss, run.selector
    setup = Setup(*chosen, run.governor, run.routing)
    if run.memory.budget is not None:  # refused before a byte of the weights is read or fetched
        _, geometry, needs = sized(run, workload)
        run.memory.resolve(geometry, needs)
    return setup


def sized(run: Run, workload: Workload) -> tuple[PreTrainedModel, Geometry, Needs]:
    """The model on meta, its experts as they are packed, and the bytes beside them.

    No weight is read for it, and at most a config.json is fetched.
    """
    from moex.models import checkpoint, hub, memory_needs

    given = hub.configuration(run.model.name, run.model.architecture)
    skeleton = checkpoint.build_from(given, run.model.dtype)
    geometry, size = memory_needs.sizes(skeleton, run.quant)
    lengths = (workload.prompt_tokens or 0, workload.new_tokens, workload.batch_size)
    process = memory_needs.process_bytes(run.model.device, run.hardware)
    held = (run.prefetch.device_bytes, size, process)
    return skeleton, geometry, memory_needs.needs(skeleton, geometry, *lengths, *held)


def vocabulary(model: PreTrainedModel) -> int:
    """Number of tokens that a model embeds."""
    return len(model.get_input_embeddings().weight)  # type: ignore[arg-type]


def set_threads(run: Run, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(run.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


def write_counts(trace: Trace | TraceStream, folder: Path) -> None:
    """Keep how often every expert was used: `cache=static cache.counts=FOLDER/counts.json`.

    And every neuron, where neurons were selected: `neurons.npy`.
    """
    from moex.trace.diagnostics import counts

    write_atomically(folder / "counts.json", json.dumps(counts(trace), allow_nan=False) + "\n")
    if trace.has("rows"):
        from moex.sparsity.neuron_counts import neuron_counts, write_neurons

        write_neurons(neuron_counts(trace), folder / "neurons.npy")
