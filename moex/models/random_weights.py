"""Fills a model with random weights: true sizes without files. Rows are marked `random_weights`.

Every expert is a different window of one random buffer: bytes differ from expert to expert, and
are generated at memory speed. For quantized experts the windows are codes; scales and zeros are
those of one really packed expert, so that outputs are finite and of the usual size.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from moex.models import experts_interface
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.quant.base import Spec
    from moex.quant.packing import ExpertPacking

STEP = 64
"""Elements between the windows of neighbouring experts."""
DEVIATION = 0.02


def fill_randomly(
    model: PreTrainedModel,
    sink: Callable[[Expert, dict[str, Tensor]], None],
    device: str = "cpu",
    skip: Collection[int] = (),
    seed: int = 0,
    packing: ExpertPacking | None = None,
) -> None:
    """Fill the skeleton on the device, and pass every random expert to the sink.

    With `packing`, the sink gets packed experts.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = experts_interface.moe_layers(model)
    experts = {id(p) for layer in layers for p in layer.experts.parameters()}
    state = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in experts:
            noise = torch.randn(min(parameter.numel(), 1 << 20), generator=generator) * DEVIATION
            whole = noise.to(parameter.dtype).repeat(-(-parameter.numel() // len(noise)))
            weight = whole[: parameter.numel()].view(parameter.shape)
            # Norms are centred at 1, or activations would vanish.
            state[name] = (weight + 1 if parameter.dim() == 1 else weight).to(device)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    count, total = layers[0].experts.down_proj.shape[0], len(layers)
    if len(skip) == total:
        return
    random, fixed = layers[0].tensors, {}
    if packing is not None and packing.tensors != random:  # neurons are packed by their layout
        fixed = packing.pack(next(_windows(random, 1, generator)))
        random = {name: spec for name, spec in packing.tensors.items() if _any_bits(name, packing)}
    for number, tensors in enumerate(_windows(random, total * count, generator)):
        layer, index = divmod(number, count)
        if layer not in skip:
            sink(Expert(layer, index), fixed | tensors)


def _any_bits(name: str, packing: ExpertPacking) -> bool:
    """Whether a packed tensor may hold random bits: codes, and unquantized tensors."""
    weight, _, part = name.partition(".")
    return weight not in packing.quantizers or part == "codes"


def _windows(spec: Spec, count: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of `count` experts."""
    largest = max(prod(shape) for shape, _ in spec.values())
    length = largest + STEP * count * len(spec)
    unit = torch.randn(1 << 20, generator=generator) * DEVIATION
    codes = torch.randint(256, (1 << 20,), dtype=torch.uint8, generator=generator)
    buffers = {
        dtype: (codes if dtype == torch.uint8 else unit.to(dtype)).repeat(-(-length // len(unit)))
        for dtype in {kind for _, kind in spec.values()}
    }
    for expert in range(count):
        tensors = {}
        for number, (name, (shape, dtype)) in enumerate(spec.items()):
            start = STEP * (expert * len(spec) + number)
            tensors[name] = buffers[dtype][start : start + prod(shape)].view(shape)
        yield tensors


def bytes_as_tokens(text: str) -> dict[str, list[int]]:
    """A substitute for a tokenizer, for models whose text is meaningless: bytes as tokens."""
    return {"input_ids": list(text.encode())}
