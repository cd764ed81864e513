"""Which tensors of a GGUF file form each parameter of a transformers model, and how."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.models.shards import Shards

TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(\w+)")
PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
"""Modules of a layer, as transformers and as llama.cpp call them."""
EXPERTS = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}


class Made(NamedTuple):
    """A parameter that is made of tensors of the file, which may be in one of several forms."""

    names: list[str]
    make: Callable[[list[Tensor]], Tensor]

    def files(self, file_of: Mapping[str, str]) -> set[str]:
        """The files of these tensors."""
        return {file_of[key] for key in self.names}

    def separable(self, count: int) -> bool:
        """Whether there is a tensor for each of `count` experts: never."""
        return False

    def split(self, count: int) -> list[Made]:
        """Not split."""
        return [self]

    def values(
        self, target: str, model: PreTrainedModel, source: Shards, dtype: torch.dtype | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors, and yield name and value of the parameter."""
        yield target, self.make([source.read(key).to(dtype) for key in self.names])


def tensors_of(model: PreTrainedModel, layers: Mapping[str, Any]) -> Iterator[tuple[str, Made]]:
    """Yield every parameter of the model, and how it is made of the file's tensors.

    Where a file may have one of two forms, the later one yielded is the rarer.

    Args:
        model: its parameters may be on meta.
        layers: the experts' modules, by their names.
    """
    config = model.config
    for target, parameter in model.state_dict().items():
        module, _, name = target.rpartition(".")
        if module in layers:
            yield target, _experts(module.split(".")[2], name, layers[module])
            continue
        if module in TOP:
            yield target, Made([f"{TOP[module]}.{name}"], _first)
            continue
        if found := LAYER.fullmatch(target):
            number, part, name = found.groups()
            if (part, name) == ("self_attn", "sinks"):
                yield target, Made([f"blk.{number}.attn_sinks.weight"], _first)
            elif part in PARTS:
                yield from _part(target, f"blk.{number}.", part, name, parameter, config)


def _part(
    target: str, start: str, part: str, name: str, parameter: Tensor, config: Any
) -> Iterator[tuple[str, Made]]:
    """Yield the forms of a parameter of one layer."""
    key = PARTS[part]
    if config.model_type == "gpt_oss" and part == "post_attention_layernorm":
        key = "post_attention_norm"
    make: Any = partial(_shaped, parameter.shape)
    if config.model_type == "mixtral" and part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
        make = partial(_rotated, heads)
    yield target, Made([f"{start}{key}.{name}"], make)
    if key == "attn_kv_b":
        yield target, Made([f"{start}attn_k_b.{name}", f"{start}attn_v_b.{name}"], _latent)


def _experts(number: str, name: str, experts: Any) -> Made:
    """All experts of a layer: weights or biases."""
    weight = name.removesuffix("_bias")
    kind = "weight" if weight == name else "bias"
    keys = [f"blk.{number}.ffn_{piece}_exps.{kind}" for piece in EXPERTS[weight]]
    turned = experts.is_transposed and kind == "weight"
    return Made(keys, partial(_joined, not experts.is_concatenated, turned))


def _first(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def _shaped(shape: torch.Size, tensors: Sequence[Tensor]) -> Tensor:
    """The tensor in its own shape: files leave out dimensions of one."""
    return tensors[0].view(shape)


def _rotated(heads: int, tensors: Sequence[Tensor]) -> Tensor:
    """Rows as transformers rotates them: files have both halves of a head's rows in turn."""
    (weight,) = tensors
    pairs = weight.view(heads, weight.shape[0] // heads // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape)


def _latent(tensors: Sequence[Tensor]) -> Tensor:
    """`kv_b_proj` of its halves: keys [heads, latent, size], values [heads, size, latent]."""
    keys, values = tensors
    return torch.cat((keys.transpose(1, 2), values), 1).flatten(0, 1)


def _joined(turns: bool, transposed: bool, tensors: Sequence[Tensor]) -> Tensor:
    """Gate and up [experts, rows, ...] one below the other, or their rows in turn."""
    if len(tensors) > 1:
        both = torch.stack([*tensors], 2).flatten(1, 2) if turns else torch.cat([*tensors], 1)
    else:
        (both,) = tensors
    return both.transpose(1, 2).contiguous() if transposed else both
