"""Loads a model: the skeleton to the device, the experts to a store, packed if needed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moex.hardware.process_memory import trim
from moex.models import checkpoint, experts_interface, hub
from moex.models.checkpoint import load_tokenizer
from moex.models.guards import refuse_absent
from moex.models.memory_needs import process_bytes, skeleton_bytes
from moex.models.packed.formats import note_decoded, stored_experts
from moex.models.random_weights import bytes_as_tokens, fill_randomly
from moex.paths import cache_folder
from moex.quant.packing import ExpertPacking, linear_settings, quantize_linears
from moex.store import row_break_even
from moex.store.base import store_class
from moex.store.bundles import Bundles, NeuronPacking
from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer, packed_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from transformers import PreTrainedModel

    from moex.models.experts_interface import MoeLayer
    from moex.models.shards import Shards
    from moex.quant.base import Scheme
    from moex.quant.packing import Sink
    from moex.runs.report import Report
    from moex.store.base import ExpertStore
    from moex.types import Expert, Geometry


@dataclass
class LoadedModel:
    """A loaded model: the skeleton, and the store with its experts.

    `quantized` describes the quantization settings (None: not quantized); `packing` binds an
    expert's packed record for computing; `process_bytes` is what interpreter and libraries held on
    a CPU when everything was loaded; `break_even` is the share of rows from which on whole experts
    are moved.
    """

    folder: Path
    model: PreTrainedModel
    layers: list[MoeLayer]
    geometry: Geometry
    layout: Any
    store: ExpertStore
    skeleton_bytes: int
    device: str
    random_weights: bool = False
    packing: ExpertPacking | None = None
    quantized: dict[str, Any] | None = None
    process_bytes: int = 0
    break_even: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the experts' weights before packing."""
        return next(iter(self.layers[0].tensors.values()))[1]

    @property
    def bits_per_weight(self) -> float:
        """Bits of a record per expert weight, including scales and padding."""
        experts = self.layers[0].tensors.values()
        weights = sum(prod(shape) for shape, _ in experts if len(shape) > 1)
        return 8 * self.layout.bytes / weights

    def describe(self, report: Report) -> None:
        """Fill in the report's fields on the weights' format and kernel."""
        report.bits_per_weight = self.bits_per_weight
        if self.quantized is not None and not (self.packing and self.packing.copies):
            report.lossy = [*report.lossy, "quant"]
        if self.packing is not None:
            report.kernel = ", ".join(sorted(self.packing.kernels))

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        if self.random_weights:
            return bytes_as_tokens
        return load_tokenizer(self.folder, self.model)


@torch.inference_mode(False)  # inference tensors could not be written outside of that mode
def load_model(
    name: str,
    dtype: str = "auto",
    device: str = "cpu",
    store: str = "ram",
    cache_dir: str | Path | None = None,
    keep_shards: bool = True,
    architecture: Mapping[str, Any] | None = None,
    quant: Scheme | None = None,
    bundles: bool = False,
    break_even: float | None = 1.0,
    fraction: float = 0.0,
) -> LoadedModel:
    """Load a model's skeleton to the device and its experts to a store.

    Quantized weights are packed into files once, and read from there for every store; but random
    codes are generated again if the store is memory.

    Args:
        name: a local folder, a GGUF file, or a hub repository.
        dtype: "auto" (as the checkpoint says), "float32", "bfloat16" or "float16".
        device: where the skeleton and the slots are.
        store: "ram", "disk", "auto" (disk without CUDA, where host memory holds the slots), or the
            dotted name of a class.
        cache_dir: folder of packed experts; default `paths.cache_folder()`.
        keep_shards: False downloads a hub repository one shard at a time, and keeps none.
        architecture: settings of a model with random weights to build instead; `name` is a label.
        quant: the quantization scheme; default none: weights as in the checkpoint.
        bundles: store experts neuron by neuron, for a neuron selector.
        break_even: with `bundles`, the share of rows from which on whole experts are moved (they
            are on disk, too, if below 1); None: measured once (`store.row_break_even`).
        fraction: the share of rows that is selected; from `break_even` on only wholes are stored.

    Raises:
        ValueError: an unknown store, device or dtype, or a model that is not supported.
        FileNotFoundError: no such model.
    """
    kind = store_class(store)
    checkpoint.check_device(device)
    cache, made = Path(cache_dir or cache_folder()).expanduser(), architecture is not None
    fill: Callable[..., None]
    if architecture is None:
        files = checkpoint.source(name, keep_shards, cache, store == "auto" or kind.from_files)
        folder, model = files.folder, checkpoint.build(files.folder, dtype)
        identity, fill = files.identity(), partial(_fill, model, files)
    else:
        folder = Path(name)
        model = checkpoint.build_from(hub.made_up(architecture), dtype)
        identity, fill = {"random_weights": dict(architecture)}, partial(fill_randomly, model)
    layers = experts_interface.moe_layers(model)
    tensors, settings = layers[0].tensors, None
    routers = [layer.router for layer in layers]
    packing: Any = None
    kept = quant is not None and not quant.changes
    stored = stored_experts(model, layers[0], kept)
    note_decoded(layers[0], {} if kept else stored)
    if quant is not None:
        quant.read(stored, name)
        quant.bind(device, next(iter(tensors.values()))[1])
        packing = (
            NeuronPacking(tensors, quant)
            if bundles
            else ExpertPacking(tensors, quant, layers[0].experts.is_transposed)
        )
        chosen = {"experts": packing.settings, "linears": linear_settings(model, quant, routers)}
        settings = chosen if any(chosen.values()) else None
        tensors = packing.tensors
    packing = packing if packing and packing.quantizers else None
    layout: Any
    if packing or not bundles:
        planes = (packing.bind, packing.refining) if packing and not bundles else ()
        layout = packing.layout if bundles else Planes(tensors, *planes)
        break_even = 1.0
    else:
        if break_even is None:
            break_even = row_break_even.kept(tensors, kind.name, cache, device)
        layout = Bundles(tensors).moved(fraction < break_even)
    geometry = experts_interface.geometry(model, layers, layout.bytes)
    experts: ExpertStore
    if kind.from_files or (packing and not made):
        drawn = {"drawn": "codes"} if packing and made else {}
        source = {"quant": packing.settings if packing else "none", **identity, **drawn}
        layouts = [layout]
        if layout.neurons and break_even is not None and break_even < 1 and kind.from_files:
            layouts.append(layout.planes(layout.neurons))
        folders = [packed_folder(cache, name, each, geometry, source) for each in layouts]
        with ExitStack() as stack:
            packers = [
                stack.enter_context(Packer(packed, each, geometry, source))
                for packed, each in zip(folders, layouts, strict=True)
            ]
            done = set.intersection(*(packer.done for packer in packers))
            fill(partial(_put, packers), device, skip=done, packing=packing)
        reader = kind if kind.from_files else DiskStore
        experts, *beside = (
            reader(packed, each, geometry) for packed, each in zip(folders, layouts, strict=True)
        )
        experts.whole = beside[0] if beside else None
        if not kind.from_files:
            experts = kind(layout, geometry).fill(experts)
    else:
        experts = kind(layout, geometry)
        fill(experts.put, device, packing=packing)
    linears = 0
    if quant is not None:
        linears = quantize_linears(model, quant, routers, cache / "linears", identity)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    refuse_absent(layer.experts for layer in layers)
    trim()
    held_once = {p.data_ptr(): p.nbytes for p in model.parameters() if not p.is_meta}
    size = linears + sum(held_once.values())
    # Only the first counts buffers, only the second always counts packed linear layers.
    held = max(skeleton_bytes(model), size) + (geometry.all_bytes if experts.in_memory else 0)
    return LoadedModel(
        folder=folder,
        model=model,
        layers=layers,
        geometry=geometry,
        layout=layout,
        store=experts,
        skeleton_bytes=size,
        device=device,
        random_weights=made,
        packing=packing,
        quantized=settings,
        process_bytes=process_bytes(device, held=held),
        break_even=break_even if layout.by_neuron else None,
    )


def _put(packers: Sequence[Packer], expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
    """Pass an expert to the packers that have not packed its layer yet."""
    for packer in [each for each in packers if expert.layer not in each.done]:
        packer.put(expert, tensors)


def _fill(
    model: PreTrainedModel,
    files: Shards,
    sink: Sink,
    device: str,
    skip: Collection[int] = (),
    packing: ExpertPacking | None = None,
) -> None:
    """Read a checkpoint's weights; with `packing`, the sink gets packed experts."""
    copied = packing if packing and packing.copies else None
    checkpoint.fill(model, files, packing.sink(sink) if packing else sink, device, skip, copied)
