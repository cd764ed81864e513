import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)  # tiny models, and the tests run side by side

END = "<|endoftext|>"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([END, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, pad_token=END
    )


@pytest.fixture(scope="session")
def model() -> MixtralForCausalLM:
    """A random Mixtral whose logits are far enough apart to rank choices."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        sliding_window=None,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return MixtralForCausalLM(config).eval()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of text and items that are not part of the project."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MOEX_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set MOEX_SHARED_DATA to one with eval/ and text/")
    return folder
