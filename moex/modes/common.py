"""What several modes do: load the model, build its setup, assign the cores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from moex.cache.memory import Memory
from moex.decisions.rows import whole_from
from moex.runs.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from moex.bench.workload import Workload
    from moex.cache.memory import Needs
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.quant.base import Scheme
    from moex.runner.assemble import LoadedModel, Setup
    from moex.sparsity.base import NeuronSelector
    from moex.trace.format import Trace
    from moex.types import Geometry

    Build = Callable[[Any], Any]


PARTIAL = "series.partial.jsonl"
"""What a run that was stopped had measured; gone once a run in the folder has finished."""


def load(config: Any, build: Build, store: str = "ram", whole: bool = False) -> LoadedModel:
    """The configured model: its skeleton in memory, its experts in a store.

    Neuron by neuron if a selector is configured, unless only whole experts are asked for.
    """
    from moex.runner.assemble import load_model

    model, quant = config.model, make_quant(config, build)
    where = (store, config.cache_dir, model.keep_shards, _random(model))
    bundles = selects(config) and not whole
    wholes = whole_from(Memory(**config.memory), build(config.hardware), "disk") < 1
    return load_model(model.name, model.dtype, model.device, *where, quant, bundles, wholes)


def names_a_part(group: Any) -> bool:
    """Whether there is something to build: `quant=none` and `sparsity=none` name nothing.

    Asking OmegaConf itself (`"_target_" in group`) makes it raise and catch an error that holds on
    to all frames that called it, with the model in them, until the garbage collector comes by.
    """
    return "_target_" in set(group)


def selects(config: Any) -> bool:
    """Whether only some neurons count: a selector is configured, and is not exact."""
    return names_a_part(config.sparsity) and config.sparsity.mode != "exact"


def plain(node: Any) -> Any:
    """A configured group as plain dictionaries and lists, for files and comparisons."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    listed = isinstance(node, Sequence) and not isinstance(node, str)
    return [plain(value) for value in node] if listed else node


def make_quant(config: Any, build: Build) -> Scheme | None:
    """The configured quantization; None where weights stay as they are."""
    return build(config.quant) if names_a_part(config.quant) else None


def make_selector(config: Any, build: Build) -> NeuronSelector | None:
    """The configured neuron selector; None where all neurons count."""
    return build(config.sparsity) if selects(config) else None


def shrunk(workload: Workload, config: Any) -> Workload:
    """The workload, or the least of it where everything is to be shrunk (`smoke=true`)."""
    if not config.smoke:
        return workload
    return replace(workload, limit=1, batch_size=1, new_tokens=4, warmup=0, repeats=1)


def _random(model: Any) -> Any:
    """Settings of a model whose weights are to be random; None for weights of a checkpoint."""
    if model.weights == "random" and model.architecture is None:
        raise ValueError(
            f"model.weights=random: the shapes of {model.name} are not known beforehand; expected "
            "a model whose yaml has them; try model=mixtral_8x7b model.weights=random"
        )
    return model.architecture if model.weights == "random" else None


def make_setup(config: Any, build: Build, workload: Workload) -> Setup:
    """How experts are offloaded, as configured."""
    from moex.runner.assemble import Setup

    setup = Setup(
        policy=build(config.cache),
        memory=Memory(**config.memory),
        prefetcher=build(config.prefetch),
        hardware=build(config.hardware),
        seed=config.seed,
        miss=build(config.miss),
        selector=make_selector(config, build),
    )
    if setup.memory.budget is not None:  # refused before a byte of the weights is read or fetched
        _, geometry, needs = sized(config, build, workload, setup.prefetcher, setup.hardware)
        setup.memory.resolve(geometry, needs)
    return setup


def sized(
    config: Any,
    build: Build,
    workload: Workload,
    prefetcher: Prefetcher | None,
    hardware: HardwareProfile | None,
) -> tuple[PreTrainedModel, Geometry, Needs]:
    """The configured model on meta, its experts as they are packed, and the bytes beside them.

    No weight is read for it, and at most a config.json is fetched.
    """
    from moex.models import checkpoint, hub, memory_needs

    given = hub.configuration(config.model.name, config.model.architecture)
    skeleton = checkpoint.build_from(given, config.model.dtype)
    geometry, size = memory_needs.sizes(skeleton, make_quant(config, build))
    lengths = (workload.prompt_tokens or 0, workload.new_tokens, workload.batch_size)
    process = memory_needs.process_bytes(config.model.device, hardware)
    held = (prefetcher.device_bytes if prefetcher else 0, size, process)
    return skeleton, geometry, memory_needs.needs(skeleton, geometry, *lengths, *held)


def set_threads(config: Any, link_threads: int = 0) -> None:
    """Computing threads and link threads together are the cores."""
    import torch

    torch.set_num_threads(config.runner.threads or max(1, _cores() - link_threads))


@cache
def _cores() -> int:
    """What torch would use: the cores, or OMP_NUM_THREADS."""
    import torch

    return torch.get_num_threads()


def write_counts(trace: Trace, folder: Path) -> None:
    """Keep how often every expert was used: `cache=static cache.counts=FOLDER/counts.json`.

    And every neuron, where neurons were selected: `neurons.npy`.
    """
    from moex.trace.diagnostics import counts

    write_atomically(folder / "counts.json", json.dumps(counts(trace), allow_nan=False) + "\n")
    if trace.rows is not None:
        from moex.trace.neurons import neuron_counts, write_neurons

        write_neurons(neuron_counts(trace), folder / "neurons.npy")
