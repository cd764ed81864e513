"""Write a training checkpoint as standard Hugging Face files: config, bf16 shards, tokenizer.

cd experiments/bundled_model/training
python export.py --data WORK_DIR --run RUN_DIR --out ../../../moex/assets/tiny
"""

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from train import model_config
from transformers import GenerationConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from experiments.harness import arguments

SHARD = "14MB"


def main() -> None:
    """Write the folder anew."""
    args = arguments(__doc__, data=Path, run=Path, out=Path)
    raw = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    state = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    config = model_config(raw.get_vocab_size())
    model = MixtralForCausalLM(config)
    model.load_state_dict(state["model"])
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    shutil.rmtree(args.out, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(args.out, max_shard_size=SHARD)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        model_max_length=config.max_position_embeddings,
    )
    tokenizer.save_pretrained(args.out)
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"checkpoint of {state['step']} steps, {total / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
