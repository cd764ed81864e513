"""What every MoE layer sees while a model reads text: router inputs and choices, batch by batch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch

from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from moex.models.experts_interface import MoeLayer
    from moex.runner.assemble import LoadedModel

    Router = tuple[Tensor, Tensor]
    """Of a layer: weight [experts, hidden], bias [experts]."""


class Seen(NamedTuple):
    """One layer's view of a batch: router input [tokens, hidden], choices [tokens, top_k]."""

    hidden: Tensor
    chosen: Tensor


def read(model: PreTrainedModel, layers: Sequence[MoeLayer], tokens: Tensor) -> list[Seen]:
    """Let the model read windows [batch, context]; return what each MoE layer saw.

    It is on the CPU, where predictors are trained. Memory is bounded by the batch.
    """
    seen: dict[int, Seen] = {}

    def catch(number: int) -> object:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden, index, *_rest = (*args, *kwargs.values())
            seen[number] = Seen(hidden.detach().float().cpu(), index.detach().cpu())

        return hook

    with ExitStack() as stack, torch.no_grad():
        for number, layer in enumerate(layers):
            handle = layer.experts.register_forward_pre_hook(catch(number), with_kwargs=True)
            stack.callback(handle.remove)
        model(tokens.to(model.device), use_cache=False, logits_to_keep=1)
    return [seen[number] for number in range(len(layers))]


def routers_of(loaded: LoadedModel) -> list[Router]:
    """The routers of all layers; zeros for what one has not, to start from nothing."""
    experts, hidden = loaded.geometry.experts, loaded.geometry.hidden

    def of(layer: MoeLayer, name: str, *shape: int) -> Tensor:
        found = getattr(layer.router, name, None)
        if found is None or tuple(found.shape) != shape:
            return torch.zeros(shape)
        return found.detach().float().cpu()

    return [
        (of(layer, "weight", experts, hidden), of(layer, "bias", experts))
        for layer in loaded.layers
    ]


def factors_of(loaded: LoadedModel, layer: int) -> tuple[Tensor, Tensor]:
    """A layer's gate and up rows [experts, 2 * intermediate, hidden], and its down columns' norms.

    Raises:
        ValueError: experts that are no plain gated pair of matrices.
    """
    experts = loaded.layers[layer].experts
    if not experts.has_gate or experts.has_bias or not experts.is_concatenated:
        raise ValueError(
            f"model: the experts of {type(loaded.model).__name__} are not gate, up and down "
            "without bias, which prefetch=corm is trained on; try prefetch=mlp"
        )
    both, norms = [], []
    for index in range(loaded.geometry.experts):
        tensors = _expert(loaded, layer, index)
        gate_up, down = tensors["gate_up_proj"].float(), tensors["down_proj"].float()
        if experts.is_transposed:
            gate_up, down = gate_up.T, down.T
        both.append(gate_up)
        norms.append(down.norm(dim=0))
    return torch.stack(both), torch.stack(norms)


@torch.no_grad()
def contributions(loaded: LoadedModel, layer: int, expert: int, hidden: Tensor) -> Tensor:
    """True `|silu(gate) * up| * ||down column||` [tokens, intermediate] of states."""
    tensors = _expert(loaded, layer, expert)
    experts = loaded.layers[layer].experts
    first, down = tensors["gate_up_proj"].float(), tensors["down_proj"].float()
    both = hidden @ first if experts.is_transposed else hidden @ first.T
    return experts._apply_gate(both).abs() * down.norm(dim=1 if experts.is_transposed else 0)


def _expert(loaded: LoadedModel, layer: int, index: int) -> dict[str, Tensor]:
    record = torch.empty(loaded.layout.bytes, dtype=torch.uint8)
    loaded.store.read(Expert(layer, index), record)
    views: dict[str, Tensor] = loaded.layout.views(record)
    return views
