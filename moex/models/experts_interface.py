"""The interface to transformers: an experts function in its own table, no module surgery.

`attach` makes every MoE layer of a model call our function instead of its weights; leaving the
context restores everything. `checkpoint.py` reads the files.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moex.models.guards import guarded, refuse_absent
from moex.models.router_scores import BiasedRouter
from moex.quant.base import Packed
from moex.types import DECODE, PREFILL, Geometry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    ExpertsCall = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    PassBegins = Callable[[str, int, Tensor | None], None]

NAME = "moex"


@dataclass(frozen=True)
class MoeLayer:
    """One MoE layer: its experts module (weights may be on meta) and its router, if found."""

    name: str
    experts: Any
    router: Any

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of one expert's tensors: stacked parameters without axis 0."""
        return {
            name: (tuple(parameter.shape[1:]), parameter.dtype)
            for name, parameter in self.experts.named_parameters(recurse=False)
        }


def moe_layers(model: PreTrainedModel) -> list[MoeLayer]:
    """Find the MoE layers that transformers dispatches through its experts interface.

    Raises:
        ValueError: the model has none.
    """
    layers = []
    for name, module in model.named_modules():
        if "is_concatenated" in vars(module) and "has_gate" in vars(module):
            parent = model.get_submodule(name.rpartition(".")[0])
            layers.append(MoeLayer(name, module, _router(parent, module)))
    if not layers:
        raise ValueError(
            f"model: {type(model).__name__} has no MoE layer that transformers dispatches through "
            "its experts interface; expected e.g. Mixtral, OLMoE or Qwen3-MoE; try model=tiny"
        )
    _check_alike(layers)
    return layers


def _router(block: nn.Module, experts: Any) -> nn.Module | None:
    """The sibling of the experts whose only matrix [experts, hidden] marks it as the router."""
    down = experts.down_proj
    count, hidden = down.shape[0], down.shape[2 if experts.is_transposed else 1]
    for child in block.children():
        shapes = [p.shape for p in child.parameters() if p.dim() == 2 and p.shape[1] == hidden]
        if child is not experts and shapes == [(count, hidden)]:
            return BiasedRouter.of(child, block, count)
    return None


def _check_alike(layers: Sequence[MoeLayer]) -> None:
    for number, layer in enumerate(layers):
        if (
            layer.tensors != layers[0].tensors
            or layer.experts.down_proj.shape[0] != layers[0].experts.down_proj.shape[0]
        ):
            raise ValueError(
                f"model: the experts of MoE layer {number} differ from those of layer 0 in number, "
                "shape or type; expected the same in all MoE layers (dense ones may lie between); "
                "try model=tiny"
            )


def geometry(model: PreTrainedModel, layers: Sequence[MoeLayer], expert_bytes: int) -> Geometry:
    """The geometry of the model: the sizes that caching needs.

    Raises:
        ValueError: the sizes are not those of a supported model.
    """
    config = model.config.get_text_config()
    experts = layers[0].experts
    down = experts.down_proj
    sizes = down.shape[1:] if not experts.is_transposed else down.shape[:0:-1]
    found = Geometry(
        layers=len(layers),
        experts=down.shape[0],
        top_k=_top_k(config),
        hidden=int(sizes[0]),
        intermediate=int(sizes[1]),
        expert_bytes=expert_bytes,
    )
    try:
        found.check(f"model: {config.name_or_path or config.model_type}")
    except ValueError as error:
        raise ValueError(f"{error}; try model=tiny") from error
    return found


def _top_k(config: Any) -> int:
    for name in ("num_experts_per_tok", "moe_topk"):
        if hasattr(config, name):
            return int(getattr(config, name))
    raise ValueError(
        f"model: the configuration of {config.model_type} does not say how many experts a token "
        "gets; expected num_experts_per_tok; try model=tiny"
    )


def expert_output(experts: Any, tokens: Tensor, weights: Mapping[str, Tensor | Packed]) -> Tensor:
    """Compute one expert for tokens [n, hidden], with the operations of transformers' `grouped_mm`.

    `weights` has one expert's tensors under the module's own parameter names; packed ones use their
    quantizer's matmul.
    """
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _linear(experts, tokens, weights, first)
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    out = _linear(experts, inner, weights, "down_proj")
    # Older transformers (5.17) has no such norm.
    return experts.post_expert_norm(out) if vars(experts).get("has_post_expert_norm") else out


def neurons_output(
    experts: Any, tokens: Tensor, planes: Mapping[str, Tensor], absent: Tensor | None
) -> Tensor:
    """Compute some neurons of one expert for tokens [n, hidden].

    `planes` are those of `store.bundles`: `gate_up` [2 * rows, hidden] and `down`, transposed,
    [rows, hidden]; `absent` [n or 1, rows] marks the rows to leave out per token; None: none.
    """
    inner = experts._apply_gate(functional.linear(tokens, planes["gate_up"]))
    if absent is not None:  # not multiplied by 0: an absent row may hold NaN
        inner.masked_fill_(absent, 0)
    return torch.mm(inner, planes["down"])


def _linear(experts: Any, x: Tensor, weights: Mapping[str, Tensor | Packed], name: str) -> Tensor:
    weight = weights[name]
    if isinstance(weight, Packed):
        out = weight.matmul(x)
    else:
        out = torch.mm(x, weight) if experts.is_transposed else functional.linear(x, weight)
    return out.add_(weights[name + "_bias"]) if experts.has_bias else out  # type: ignore[arg-type]


@torch.compiler.disable
def _uncompiled(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _dispatch(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # `disable` costs 40 us a call, this nothing
        return _uncompiled(_dispatch, experts, hidden, index, weights)
    call = vars(experts).get("moex")
    if call is None:
        raise RuntimeError("experts_implementation='moex' works only inside `with moex.load(...)`")
    return guarded(call, experts, hidden, index, weights)


@contextmanager
def attach(
    model: PreTrainedModel,
    layers: Sequence[MoeLayer],
    calls: Sequence[ExpertsCall],
    pass_begins: PassBegins,
) -> Iterator[None]:
    """Route every MoE layer's experts through `calls[layer]` while the context is open.

    `calls` take (experts module, hidden [tokens, hidden], top-k index and weights [tokens, k]).
    `pass_begins(phase, position, attention mask)` is called before every forward pass. None of it
    is compiled, even if requested (transformers does so for a static KV cache on a GPU).

    Raises:
        RuntimeError: the model is already attached.
    """
    if any("moex" in vars(layer.experts) for layer in layers):
        raise RuntimeError(
            "model: its experts are offloaded already; leave the `with` block that it is in first"
        )
    before, own = model.config._experts_implementation, vars(model).get("forward")
    ALL_EXPERTS_FUNCTIONS.register(NAME, _dispatch)
    names = tuple(inspect.signature(model.forward).parameters)
    begin = partial(_begin, pass_begins, names)
    hook = model.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        for layer, call in zip(layers, calls, strict=True):
            vars(layer.experts).pop("forward", None)
            layer.experts.moex = call
        model.forward = torch.compiler.disable(model.forward)
        model.set_experts_implementation(NAME)
        yield
    finally:
        hook.remove()
        model.set_experts_implementation(before)
        vars(model).pop("forward", None)
        if own is not None:
            model.forward = own
        for layer in layers:
            vars(layer.experts).pop("moex", None)
        refuse_absent(layer.experts for layer in layers)


@torch.compiler.disable
def _begin(
    pass_begins: PassBegins, names: Sequence[str], _: nn.Module, args: tuple, kwargs: dict
) -> None:
    pass_begins(*_pass(dict(zip(names, args, strict=False)) | kwargs))


def _pass(given: Mapping[str, Any]) -> tuple[str, int, Tensor | None]:
    """Phase, position of the first token, and attention mask of a forward pass."""
    inputs = given.get("input_ids")
    if inputs is None:
        inputs = given["inputs_embeds"]
    past = given.get("past_key_values")
    # A static cache counts in a tensor that it keeps updating: take its value now.
    position = int(past.get_seq_length()) if past is not None else 0
    decoding = inputs.shape[1] == 1 and position > 0
    return (DECODE if decoding else PREFILL), position, given.get("attention_mask")
