"""Loads a model: its skeleton to the device, its experts to a store, packed if they must be."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moex.cache.memory import STORES
from moex.hardware.process_memory import trim
from moex.models import checkpoint, experts_interface, hub
from moex.models.guards import refuse_absent
from moex.models.memory_needs import process_bytes, skeleton_bytes
from moex.models.random_weights import bytes_as_tokens, fill_randomly
from moex.models.shards import Folder, Streamed
from moex.models.tokenizer import load_tokenizer
from moex.paths import cache_folder, model_folder
from moex.quant.packing import ExpertPacking, linear_settings, quantize_linears
from moex.store.bundles import Bundles
from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer, packed_folder
from moex.store.quantized_bundles import NeuronPacking
from moex.store.ram import RamStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from transformers import PreTrainedModel

    from moex.models.experts_interface import MoeLayer
    from moex.models.shards import Shards
    from moex.quant.base import Scheme, Spec
    from moex.quant.packing import Sink
    from moex.runs.report import Report
    from moex.store.base import ExpertStore
    from moex.types import Expert, Geometry


@dataclass
class LoadedModel:
    """A loaded model: the skeleton, and the store that has its experts.

    `quantized` says in words what was packed how (None: nothing was); `packing` says how an
    expert's record is computed with; `process_bytes` is what interpreter and libraries held on a
    CPU when all was loaded, so that a budget makes as many slots for every run of it.
    """

    folder: Path
    model: PreTrainedModel
    layers: list[MoeLayer]
    geometry: Geometry
    layout: Planes | Bundles
    store: ExpertStore
    skeleton_bytes: int
    device: str
    random_weights: bool = False
    packing: ExpertPacking | None = None
    quantized: dict[str, Any] | None = None
    process_bytes: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the experts as the model has them, packed or not."""
        return next(iter(self.layers[0].tensors.values()))[1]

    @property
    def bits_per_weight(self) -> float:
        """Bits of a record, scales and padding and all, for a weight of an expert."""
        experts = self.layers[0].tensors.values()
        weights = sum(prod(shape) for shape, _ in experts if len(shape) > 1)
        return 8 * self.layout.bytes / weights

    def describe(self, report: Report) -> None:
        """Fill in how the weights are kept and computed with."""
        report.bits_per_weight = self.bits_per_weight
        if self.quantized is not None:
            report.lossy = [*report.lossy, "quant"]
        if self.packing is not None:
            report.kernel = ", ".join(sorted(self.packing.kernels))

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        if self.random_weights:
            return bytes_as_tokens
        return load_tokenizer(self.folder, self.model)


@torch.inference_mode(False)  # whose tensors cannot be written to outside of it
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
    wholes: bool = False,
) -> LoadedModel:
    """Load a model's skeleton to the device and its experts to a store.

    What is quantized is packed into files once, and read from them whatever the store; but codes
    that are drawn are drawn again where the store is memory.

    Args:
        name: a local folder or a hub repository.
        dtype: "auto" (as the checkpoint says), "float32", "bfloat16" or "float16".
        device: where the skeleton and the slots are.
        store: "ram", "disk", or "auto": disk on a machine without CUDA, where memory is the slots.
        cache_dir: where packed experts are kept; default `places.cache_folder()`.
        keep_shards: False downloads a hub repository a shard at a time, and keeps none.
        architecture: settings of a model of random weights to make instead; `name` names it only.
        quant: which quantizer takes which weights; default none, as the checkpoint has them.
        bundles: keep experts neuron by neuron, as a neuron selector needs them.
        wholes: on disk keep them, beside that, as places with room for all neurons have them: as
            much disk again, for a run that moves many rows by moving whole experts.
    """
    if store not in STORES:
        raise ValueError(f"memory.store={store}: expected one of {', '.join(STORES)}")
    checkpoint.check_device(device)
    cache, made = Path(cache_dir) if cache_dir else cache_folder(), architecture is not None
    fill: Callable[..., None]
    if architecture is None:
        files = _source(name, keep_shards, cache, store)
        folder, model = files.folder, checkpoint.build(files.folder, dtype)
        identity, fill = files.identity(), partial(_fill, model, files)
    else:
        folder = Path(name)
        model = checkpoint.build_from(hub.made_up(architecture), dtype)
        identity, fill = {"random_weights": dict(architecture)}, partial(fill_randomly, model)
    layers = experts_interface.moe_layers(model)
    tensors, packing, settings = layers[0].tensors, None, None
    if quant is not None:
        quant.bind(device, next(iter(tensors.values()))[1])
        packing = (
            NeuronPacking(tensors, quant)
            if bundles
            else ExpertPacking(tensors, quant, layers[0].experts.is_transposed)
        )
        chosen = {"experts": packing.settings, "linears": linear_settings(model, quant)}
        settings = chosen if any(chosen.values()) else None
        tensors = packing.tensors
    packing = packing if packing and packing.quantizers else None
    layout = _layout(tensors, packing, bundles)
    geometry = experts_interface.geometry(model, layers, layout.bytes)
    experts: ExpertStore
    on_disk = store == "disk" or (store == "auto" and not torch.cuda.is_available())
    if on_disk or (packing and not made):
        drawn = {"drawn": "codes"} if packing and made else {}
        source = {"quant": packing.settings if packing else "none", **identity, **drawn}
        layouts = [layout]
        if wholes and on_disk and isinstance(layout, Bundles) and packing is None:
            layouts.append(layout.planes(layout.neurons))
        folders = [packed_folder(cache, name, each, geometry, source) for each in layouts]
        with ExitStack() as stack:
            packers = [
                stack.enter_context(Packer(packed, each, geometry, source))
                for packed, each in zip(folders, layouts, strict=True)
            ]
            done = set.intersection(*(packer.done for packer in packers))
            fill(partial(_put, packers), device, skip=done, packing=packing)
        experts, *beside = (
            DiskStore(packed, each, geometry) for packed, each in zip(folders, layouts, strict=True)
        )
        experts.whole = beside[0] if beside else None
        if not on_disk:
            experts = RamStore(layout, geometry, experts)
    else:
        experts = RamStore(layout, geometry)
        fill(experts.put, device, packing=packing)
    linears = 0
    if quant is not None:
        linears = quantize_linears(model, quant, cache.expanduser() / "linears", identity)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    refuse_absent(layer.experts for layer in layers)
    trim()
    skeleton = {p.data_ptr(): p.nbytes for p in model.parameters() if not p.is_meta}
    size = linears + sum(skeleton.values())
    # Buffers stand only in the first, packed linear layers maybe only in the second.
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
    )


def _put(packers: Sequence[Packer], expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an expert to those that have not got its layer yet."""
    for packer in packers:
        if expert.layer not in packer.done:
            packer.put(expert, tensors)


def _fill(
    model: PreTrainedModel,
    files: Shards,
    sink: Sink,
    device: str,
    skip: Collection[int] = (),
    packing: ExpertPacking | None = None,
) -> None:
    """Read a checkpoint's weights; with `packing`, what the sink gets is packed."""
    if packing is not None:
        layers = experts_interface.moe_layers(model)
        packing.announce((len(layers) - len(skip)) * layers[0].experts.down_proj.shape[0])
        sink = packing.sink(sink)
    checkpoint.fill(model, files, sink, device, skip)


def _source(name: str, keep_shards: bool, cache: Path, store: str) -> Shards:
    """Where the checkpoint's tensors are read from."""
    if keep_shards or model_folder(name) is not None:
        return Folder(checkpoint.find(name))
    if store == "ram":
        raise ValueError(
            "model.keep_shards=false: shards that are not kept would be downloaded for every run; "
            "expected experts packed into files; try memory.store=disk"
        )
    return Streamed(name, hub.find(name, weights=False), cache.expanduser() / "hub")


def _layout(tensors: Spec, packing: ExpertPacking | None, bundles: bool) -> Planes | Bundles:
    if not bundles:
        return Planes(tensors, packing.bind if packing else None)
    return packing.layout if isinstance(packing, NeuronPacking) else Bundles(tensors)
