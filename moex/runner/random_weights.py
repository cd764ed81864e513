"""Fills a model with random weights: its true sizes without its files. Rows say `random_weights`.

Every expert is another window of one random buffer: bytes differ from expert to expert, and are
made at the speed of memory.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from moex.runner import hf
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor
    from transformers import PreTrainedModel

STEP = 64
"""Elements between the windows of neighbouring experts."""
DEVIATION = 0.02


def fill_randomly(
    model: PreTrainedModel,
    sink: Callable[[Expert, dict[str, Tensor]], None],
    device: str = "cpu",
    skip: Collection[int] = (),
    seed: int = 0,
) -> None:
    """Give the skeleton random weights on the device, and every expert to the sink."""
    draw = torch.Generator().manual_seed(seed)
    layers = hf.moe_layers(model)
    experts = {id(p) for layer in layers for p in layer.experts.parameters()}
    state = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in experts:
            noise = torch.randn(min(parameter.numel(), 1 << 20), generator=draw) * DEVIATION
            whole = noise.to(parameter.dtype).repeat(-(-parameter.numel() // len(noise)))
            weight = whole[: parameter.numel()].view(parameter.shape)
            # Norms multiply: near 1, or nothing would arrive at the end.
            state[name] = (weight + 1 if parameter.dim() == 1 else weight).to(device)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    shapes = layers[0].tensors
    count, total = layers[0].experts.down_proj.shape[0], len(layers)
    if len(skip) == total:
        return
    largest = max(prod(shape) for shape, _ in shapes.values())
    unit = torch.randn(1 << 20, generator=draw) * DEVIATION
    windows = STEP * count * total * len(shapes)
    buffers = {
        dtype: unit.to(dtype).repeat(-(-(largest + windows) // len(unit)))
        for dtype in {kind for _, kind in shapes.values()}
    }
    number = 0
    for layer in range(total):
        for index in range(count):
            tensors = {}
            for name, (shape, dtype) in shapes.items():
                window = buffers[dtype][STEP * number :][: prod(shape)]
                tensors[name] = window.view(shape)
                number += 1
            if layer not in skip:
                sink(Expert(layer, index), tensors)


def bytes_as_tokens(text: str) -> dict[str, list[int]]:
    """What stands in for a tokenizer where no text is understood anyway."""
    return {"input_ids": list(text.encode())}
