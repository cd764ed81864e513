"""Small random checkpoints of several architectures, written to disk and read as any other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("mixtral", "olmoe", "qwen3_moe")


@pytest.fixture(scope="session", autouse=True)
def packed_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Packed experts of tests stay out of the user's cache."""
    os.environ["MOEX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real traces and items, where they are there; never part of the project."""
    folder = Path(os.environ.get("MOEX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real traces here: {folder} is no folder (set MOEX_SHARED_DATA)")
    return folder


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


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder an architecture, in float32, two shards."""
    import torch
    from transformers import AutoModelForCausalLM

    folders = {}
    for architecture in ARCHITECTURES:
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(tiny_config(architecture)).float()
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folders[architecture], max_shard_size="1MB")
        write_tokenizer(folders[architecture])
    return folders


@pytest.fixture(scope="session")
def mixtral(checkpoints: dict[str, Path]) -> Path:
    """The small random Mixtral."""
    return checkpoints["mixtral"]
