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
