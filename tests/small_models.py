"""Small random models of several architectures, as configurations; and a tokenizer for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = ("mixtral", "olmoe", "qwen3_moe")


def tiny_config(architecture: str):
    """Four layers of small experts; top-2 of 8 for Mixtral, top-4 of 16 for the others."""
    from transformers import MixtralConfig, OlmoeConfig, Qwen3MoeConfig

    common = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    if architecture == "mixtral":
        return MixtralConfig(**common, num_local_experts=8, num_experts_per_tok=2)
    if architecture == "olmoe":
        return OlmoeConfig(**common, num_experts=16, num_experts_per_tok=4)
    return Qwen3MoeConfig(
        **common,
        head_dim=16,
        moe_intermediate_size=48,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
    )


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: every byte below 128 is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:126]
    vocabulary = {"<end>": 0, "<unk>": 1, **{letter: i + 2 for i, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)


_SHARED = {"n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 48}
_GROUPS = {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 16,
    "num_key_value_heads": 4,
}
_EIGHT = {"num_local_experts": 8, "num_experts_per_tok": 4}
FAMILIES: dict[str, tuple[dict, str]] = {
    "qwen2_moe": (
        {
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 32,
            "num_experts": 8,
            "num_experts_per_tok": 4,
        },
        "softmax",
    ),
    "deepseek_v2": (
        {**_SHARED, **_GROUPS, **_LATENT, "topk_method": "group_limited_greedy"},
        "asked",
    ),
    "deepseek_v3": ({**_SHARED, **_GROUPS, **_LATENT, "q_lora_rank": 16}, "asked"),
    "gpt_oss": ({**_EIGHT, "head_dim": 16, "sliding_window": 16}, "softmax"),
    "granitemoe": (_EIGHT, "softmax"),
    "glm4_moe": ({**_SHARED, **_GROUPS, "n_group": 1, "topk_group": 1, "head_dim": 16}, "asked"),
    "ernie4_5_moe": (
        {
            "moe_intermediate_size": 48,
            "moe_num_experts": 8,
            "moe_k": 4,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "head_dim": 16,
        },
        "asked",
    ),
    "phimoe": ({**_EIGHT, "num_experts_per_tok": 2}, "asked"),
    "dots1": ({**_SHARED, **_GROUPS, "n_group": 1, "topk_group": 1, "head_dim": 16}, "asked"),
    "hunyuan_v1_moe": ({"num_experts": 8, "moe_topk": 4, "head_dim": 16}, "softmax"),
    "minimax_m2": ({**_EIGHT, "head_dim": 16, "rotary_dim": 8}, "asked"),
    "lfm2_moe": (
        {
            "moe_intermediate_size": 48,
            "num_experts": 8,
            "num_experts_per_tok": 4,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        "asked",
    ),
    "aria_text": ({"moe_num_experts": 8, "moe_topk": 4}, "softmax"),
    "nemotron_h": (
        {"moe_intermediate_size": 48, "n_routed_experts": 8, "num_experts_per_tok": 2},
        "asked",
    ),
}
"""Fourteen more families: settings, and the kind of router that `models.router_scores` finds."""


def random_family(name: str):
    """A random float32 model of a family; nothing that a checkpoint stores is left at zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    torch.manual_seed(7)
    config = AutoConfig.for_model(name, **{**common, **FAMILIES[name][0]})
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if "bias" in n)]:
            if not tensor.any():
                tensor.normal_(0, 0.1)
    return model
