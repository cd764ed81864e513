"""Baselines: stock transformers, and accelerate's offloading."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from moex.models import checkpoint, experts_interface
from moex.models.hub import of_folder
from moex.models.memory_needs import fits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedModel

CACHE_LINE = 64
IMPLEMENTATIONS = ("grouped_mm", "batched_mm", "eager")


@contextmanager
def stock(
    name: str, dtype: str = "auto", device: str = "cpu", experts: str = "grouped_mm"
) -> Iterator[PreTrainedModel]:
    """The whole model on the device, with one of transformers' own experts implementations."""
    from transformers import AutoModelForCausalLM

    if experts not in IMPLEMENTATIONS:
        raise ValueError(f"runner.experts={experts}: expected one of {', '.join(IMPLEMENTATIONS)}")
    checkpoint.check_device(device)
    folder = checkpoint.find(name)
    of_folder(folder)
    checkpoint.shards(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=_dtype(dtype), device_map={"": device}, experts_implementation=experts
    )
    _align(model)
    yield _frozen(model)


def _align(model: nn.Module) -> None:
    """Copy weights that begin inside a cache line, as those of a mapped file may.

    On some processors MKL sums in another order for such a matrix, and a bit differs.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % CACHE_LINE:
            parameter.data = parameter.data.clone()


@contextmanager
def reference(name: str, dtype: str = "auto", device: str = "cpu") -> Iterator[PreTrainedModel]:
    """The reference of `mode=verify`: stock, or, where memory does not hold it, offloaded stock.

    Both compute with transformers' own `grouped_mm`; accelerate only moves weights.
    """
    size = sum(p.nbytes for p in checkpoint.build(checkpoint.find(name), dtype).parameters())
    with (stock if fits(size, device) else accelerate)(name, dtype, device) as model:
        yield model


@contextmanager
def accelerate(
    name: str, dtype: str = "auto", device: str = "cpu", experts: str = "grouped_mm"
) -> Iterator[PreTrainedModel]:
    """Every layer's experts off the device, brought by accelerate when the layer runs.

    Off the device means host memory for a GPU. This is the naive baseline of Eliseev & Mazur 2023:
    all experts of a layer cross the link for every token. For a CPU it means files that accelerate
    maps into memory: only what is computed with is read, and the page cache keeps what it can.
    """
    from transformers import AutoModelForCausalLM

    checkpoint.check_device(device)
    folder = checkpoint.find(name)
    checkpoint.shards(folder)
    away = "disk" if device == "cpu" else "cpu"
    skeleton = checkpoint.build(folder)
    modules = {layer.experts for layer in experts_interface.moe_layers(skeleton)}
    devices = _device_map(skeleton, "", modules, device, away)
    with tempfile.TemporaryDirectory(prefix="moex-accelerate-") as offload_folder:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=_dtype(dtype),
            device_map=devices,
            offload_folder=offload_folder,
            experts_implementation=experts,
        )
        yield _frozen(model)


def _device_map(
    module: nn.Module, name: str, experts: set[nn.Module], device: str, away: str
) -> dict[str, str]:
    """A device map that names every experts module, and every largest module without any."""
    if module in experts:
        return {name: away}
    if experts.isdisjoint(module.modules()):
        return {name: device}
    devices = {}
    for child, inner in module.named_children():
        path = f"{name}.{child}" if name else child
        devices.update(_device_map(inner, path, experts, device, away))
    return devices


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    """As moex loads a model: torch multiplies weights that want gradients in another order.

    (Those of a strided batch, such as the last positions of several prompts: `should_fold`.)
    """
    return model.eval().requires_grad_(False)


def _dtype(name: str) -> str | torch.dtype:
    return name if name == "auto" else getattr(torch, name)
