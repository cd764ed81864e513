"""The configuration of transformers that a GGUF file's metadata describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moex.models.gguf.header import Header

    Read = Callable[..., Any]

SIGMOID = 2
"""`expert_gating_func` of routers that DeepSeek-V3 has, and V2 has not."""


def config_of(header: Header) -> dict[str, Any]:
    """Return the settings of config.json.

    Raises:
        ValueError: a model that is no mixture of experts, or of an architecture that is not read.
    """
    name = header.architecture
    if name not in MODELS:
        raise ValueError(
            f"model: {header.path} is a {name} model; expected a mixture of experts of one of "
            f"{', '.join(MODELS)} (llama with experts is Mixtral); try another file"
        )
    if not header.read("expert_count", 0):
        raise ValueError(
            f"model: {header.path} is a dense {name} model, without experts; expected a mixture "
            "of experts, e.g. Mixtral or Qwen3-MoE; try model=tiny"
        )
    config = {**_common(header), **MODELS[name](header)}
    for key, at in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        config[key] = header.metadata.get(f"tokenizer.ggml.{at}_token_id")
    return config


def _common(header: Header) -> dict[str, Any]:
    heads = header.read("attention.head_count")
    return {
        "vocab_size": header.shape("token_embd.weight")[0],
        "hidden_size": header.read("embedding_length"),
        "num_hidden_layers": header.read("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.read("attention.head_count_kv", heads),
        "num_experts_per_tok": header.read("expert_used_count"),
        "rms_norm_eps": header.read("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": header.read("context_length"),
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


def _rope(header: Header) -> dict[str, Any]:
    """How positions are rotated, and scaled beyond the context of training."""
    base = header.read("rope.freq_base", 10000.0)
    kind = header.read("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": base}
    found = {"rope_type": kind, "rope_theta": base, "factor": header.read("rope.scaling.factor")}
    if kind == "yarn":
        found["original_max_position_embeddings"] = header.read(
            "rope.scaling.original_context_length"
        )
    elif kind != "linear":
        raise ValueError(
            f"model: {header.path} scales positions by {kind}; expected none, linear or yarn; "
            "try another file"
        )
    return found


def _mixtral(header: Header) -> dict[str, Any]:
    return {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": _expert_rows(header),
        "num_local_experts": header.read("expert_count"),
        "head_dim": header.read("attention.key_length", header.read("rope.dimension_count", None)),
    }


def _olmoe(header: Header) -> dict[str, Any]:
    return {
        "model_type": "olmoe",
        "architectures": ["OlmoeForCausalLM"],
        "intermediate_size": _expert_rows(header),
        "num_experts": header.read("expert_count"),
        "norm_topk_prob": False,
        "clip_qkv": header.read("attention.clamp_kqv", None),
    }


def _qwen2(header: Header) -> dict[str, Any]:
    return {
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "intermediate_size": header.read("feed_forward_length"),
        "moe_intermediate_size": _expert_rows(header),
        "shared_expert_intermediate_size": header.shape("blk.0.ffn_gate_shexp.weight")[0],
        "num_experts": header.read("expert_count"),
        "norm_topk_prob": False,
    }


def _qwen3(header: Header) -> dict[str, Any]:
    return {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "intermediate_size": header.read("feed_forward_length"),
        "moe_intermediate_size": _expert_rows(header),
        "num_experts": header.read("expert_count"),
        "head_dim": header.read("attention.key_length"),
        "norm_topk_prob": True,
    }


def _gpt_oss(header: Header) -> dict[str, Any]:
    rope = _rope(header)
    if rope["rope_type"] == "yarn":
        rope |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "intermediate_size": _expert_rows(header),
        "num_local_experts": header.read("expert_count"),
        "head_dim": header.read("attention.key_length"),
        "sliding_window": header.read("attention.sliding_window"),
        "rope_parameters": rope,
    }


def _deepseek2(header: Header) -> dict[str, Any]:
    if header.read("expert_gating_func", 1) == SIGMOID:
        raise ValueError(
            f"model: {header.path} has the router of DeepSeek-V3; expected DeepSeek-V2's; try a "
            "safetensors checkpoint"
        )
    rope = _rope(header)
    if rope["rope_type"] == "yarn":
        scale = 10 * header.read("rope.scaling.yarn_log_multiplier", 0.0)
        rope |= {"mscale": scale, "mscale_all_dim": scale, "beta_fast": 32, "beta_slow": 1}
    rotated = header.read("rope.dimension_count")
    key = header.read("attention.key_length_mla", header.read("attention.key_length"))
    value = header.read("attention.value_length_mla", header.read("attention.value_length"))
    dense = header.read("leading_dense_block_count", 0)
    return {
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        "intermediate_size": header.read("feed_forward_length"),
        "moe_intermediate_size": _expert_rows(header),
        "n_routed_experts": header.read("expert_count"),
        "n_shared_experts": header.read("expert_shared_count", None),
        "first_k_dense_replace": dense,
        "num_key_value_heads": header.read("attention.head_count"),
        "q_lora_rank": header.read("attention.q_lora_rank", None),
        "kv_lora_rank": header.read("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": key - rotated,
        "v_head_dim": value,
        "head_dim": rotated,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": bool(header.read("expert_weights_norm", False)),
        "routed_scaling_factor": header.read("expert_weights_scale", 1.0),
        "rope_parameters": rope,
    }


def _expert_rows(header: Header) -> int:
    """Rows of an expert's gate: its intermediate size."""
    layer = header.read("leading_dense_block_count", 0)
    return header.shape(f"blk.{layer}.ffn_gate_exps.weight")[1]


MODELS: Mapping[str, Callable[[Header], dict[str, Any]]] = {
    "llama": _mixtral,
    "olmoe": _olmoe,
    "qwen2moe": _qwen2,
    "qwen3moe": _qwen3,
    "deepseek2": _deepseek2,
    "gpt-oss": _gpt_oss,
}
"""By the architectures of llama.cpp."""
