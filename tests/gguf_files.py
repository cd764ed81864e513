"""Writes tiny GGUF files as llama.cpp's converter does, and the same model for transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from small_models import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARCHITECTURES = {
    "mixtral": "llama",
    "olmoe": "olmoe",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "deepseek_v2": "deepseek2",
    "gpt_oss": "gpt-oss",
}
SETTINGS = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 4, "num_key_value_heads": 4},
    "qwen2_moe": FAMILIES["qwen2_moe"][0],
    "qwen3_moe": {
        "head_dim": 16,
        "moe_intermediate_size": 64,
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
    },
    "deepseek_v2": {
        **FAMILIES["deepseek_v2"][0],
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "q_lora_rank": 16,
    },
    "gpt_oss": FAMILIES["gpt_oss"][0],
}
LETTERS = 128


HALVES = {
    "F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82),
}  # fmt: skip


def random_rows(kind, rows, columns, seed=0):
    """Rows of random blocks; floats in them are ordinary ones."""
    import gguf

    numbers, size = gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    draws = np.random.default_rng(seed)
    raw = draws.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    for at in HALVES.get(kind, ()):
        raw[:, at : at + 2] = draws.normal(0, 0.02, (len(raw), 1)).astype("<f2").view(np.uint8)
    if kind == "MXFP4":
        raw[:, 0] %= 250
    if kind == "F32":
        raw = draws.normal(size=(len(raw), 1)).astype("<f4").view(np.uint8)
    if kind == "BF16":
        raw = draws.normal(size=(len(raw), 1)).astype("<f4").view(np.uint8)[:, 2:].copy()
    return torch.from_numpy(raw).view(rows, -1)


def random_model(name: str, **changed):
    """A random float32 model; experts of 64 rows, or as `changed`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 64}
    common = {
        "vocab_size": LETTERS,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    config = AutoConfig.for_model(name, **{**common, **SETTINGS[name], **sizes, **changed})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0, 0.2) if not tensor.any() else tensor.mul_(1.5)
    return model.requires_grad_(False)


def write(
    model, path: Path, types: dict[str, str], split_kv: bool = True, without: str = ""
) -> None:
    """Write a model; its expert weights become what they are in the file.

    Args:
        model: of transformers, in float32.
        path: the file.
        types: block type of `gate`, `up` and `down`; `down0` of one layer alone.
        split_kv: whether DeepSeek's keys and values are written apart, as since 2025.
        without: a tensor to leave out.
    """
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURES[model.config.model_type])
    _write_settings(writer, model.config, split_kv)
    for name, data, number in _tensors(model, types, split_kv):
        if name != without:
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model, types: dict[str, str], split_kv: bool) -> Iterator[tuple]:
    """Names, values and block types; None: plain numbers."""
    import gguf

    config, arch = model.config, ARCHITECTURES[model.config.model_type]
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for target, data in model.state_dict().items():
        stem, _, suffix = target.rpartition(".")
        if ".experts." in target:
            yield from _experts(model, target, data, types)
            continue
        if target.endswith("self_attn.sinks"):
            stem, suffix = target, "weight"
        short = names.get_name(stem)
        assert short is not None, target
        if arch == "llama" and ("q_proj" in target or "k_proj" in target):
            heads = config.num_attention_heads if "q_proj" in target else config.num_key_value_heads
            halves = data.reshape(heads, 2, len(data) // heads // 2, -1)
            data = halves.swapaxes(1, 2).reshape(data.shape)
        if "kv_b_proj" in target and split_kv:
            size = (config.qk_nope_head_dim, config.v_head_dim)
            both = data.view(config.num_attention_heads, sum(size), -1)
            keys, values = both.split(size, 1)
            yield short.replace("kv_b", "k_b") + ".weight", keys.transpose(1, 2).numpy(), None
            yield short.replace("kv_b", "v_b") + ".weight", values.numpy(), None
            continue
        shape = (-1,) if "shared_expert_gate" in target else data.shape
        yield f"{short}.{suffix}", data.view(shape).numpy(), None


def _experts(model, target: str, parameter, types: dict[str, str]) -> Iterator[tuple]:
    import gguf

    layer = target.split(".")[2]
    for piece, rows in _pieces(model, target, parameter).items():
        name = f"blk.{layer}.ffn_{piece}_exps"
        if target.endswith("_bias"):
            yield name + ".bias", rows.numpy(), None
            continue
        number = gguf.GGMLQuantizationType[types.get(f"{piece}{layer}", types[piece])]
        raw = quantized(rows.numpy(), number)
        decoded = gguf.quants.dequantize(raw, number).reshape(rows.shape)
        rows.copy_(torch.from_numpy(np.ascontiguousarray(decoded)))
        yield name + ".weight", raw, number


def quantized(data, number):
    """Blocks of a type; random ones where the package has no writer of it (K-quants)."""
    import gguf

    try:
        return gguf.quants.quantize(data, number)
    except NotImplementedError:
        rows, columns = data.size // data.shape[-1], data.shape[-1]
        found = random_rows(number.name, rows, columns, seed=rows).numpy()
        return found.reshape(*data.shape[:-1], -1)


def _pieces(model, target: str, parameter) -> dict:
    """Views of the parameter as llama.cpp has it: gate and up apart, [experts, out, in]."""
    experts = model.get_submodule(target.rpartition(".")[0])
    bias = target.endswith("_bias")
    rows = parameter.transpose(1, 2) if experts.is_transposed and not bias else parameter
    if "down_proj" in target:
        return {"down": rows}
    if experts.is_concatenated:
        return dict(zip(("gate", "up"), rows.chunk(2, 1), strict=True))
    return {"gate": rows[:, 0::2], "up": rows[:, 1::2]}


def _write_settings(writer, config, split_kv: bool) -> None:
    import gguf

    settings = config.to_dict()
    heads, kind = config.num_attention_heads, config.model_type
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    latent = kind == "deepseek_v2" and split_kv  # then all heads share keys and values
    writer.add_head_count_kv(1 if latent else config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_expert_count(next(
        settings[k] for k in ("num_local_experts", "num_experts", "n_routed_experts")
        if k in settings
    ))  # fmt: skip
    writer.add_expert_used_count(config.num_experts_per_tok)
    head = settings.get("head_dim") or config.hidden_size // heads
    if kind != "deepseek_v2":
        writer.add_rope_dimension_count(head)
        writer.add_key_length(head)
        writer.add_value_length(head)
    if kind in ("qwen2_moe", "qwen3_moe", "deepseek_v2"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if kind == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if kind == "gpt_oss":
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_sliding_window(config.sliding_window)
        rope = config.rope_parameters
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "deepseek_v2":
        whole = config.qk_nope_head_dim + config.qk_rope_head_dim
        rank, turned = config.kv_lora_rank, config.qk_rope_head_dim
        writer.add_kv_lora_rank(rank)
        if config.q_lora_rank:
            writer.add_q_lora_rank(config.q_lora_rank)
        writer.add_rope_dimension_count(turned)
        if split_kv:
            writer.add_key_length(rank + turned)
            writer.add_value_length(rank)
            writer.add_key_length_mla(whole)
            writer.add_value_length_mla(config.v_head_dim)
        else:
            writer.add_key_length(whole)
            writer.add_value_length(config.v_head_dim)
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())[: LETTERS - 3]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["<end>", "<unk>", *letters, "ab"])
    writer.add_token_types([3, 3, *[1] * (LETTERS - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
