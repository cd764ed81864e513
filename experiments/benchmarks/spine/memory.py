"""Peak memory of an offloaded run, over a process that only imports the same modules.

Each figure is the peak resident set of a process of its own. The experts are on disk and the model
is large enough that holding it would show.

python experiments/benchmarks/spine/memory.py [--slots 2]
"""

import subprocess
import sys
import tempfile

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from experiments.harness import ROOT, arguments

IMPORTS = """
import torch, transformers
from moex.hardware.process_memory import peak_host_bytes
import moex.runner.assemble, moex.bench.rounds, moex.cache.lru, moex.prefetch.gate
from transformers import MixtralForCausalLM
torch.set_num_threads(1)
"""
RUN = """
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.bench.workload import generate
parts = load_model({folder!r}, store="disk", cache_dir={cache!r})
run = offload(parts, Setup(moex.cache.lru.LRU(), Memory({slots}), moex.prefetch.gate.Gate()))
with run as model:
    generate(model, [torch.arange(2, 34)[None]], 16, run.meter)
print(parts.skeleton_bytes, run.slots.bytes, parts.geometry.expert_bytes * 128)
"""
PEAK = """
print(peak_host_bytes())
"""


def run(program: str) -> list[int]:
    """Run a program in a fresh process; return the numbers that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def main() -> None:
    """Print the sum and its parts, packing and packed."""
    args = arguments(__doc__, tiny={"scale": 1}, slots=2, scale=(8, "of the model's sizes"))
    with tempfile.TemporaryDirectory() as folder:
        config = MixtralConfig(
            vocab_size=4096,
            hidden_size=64 * args.scale,
            intermediate_size=128 * args.scale,
            num_hidden_layers=16,
            num_attention_heads=8,
            num_key_value_heads=4,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = MixtralForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="100MB")
        del model
        (imported,) = run(IMPORTS + PEAK)
        body = RUN.format(folder=folder, cache=f"{folder}/cache", slots=args.slots)
        for name in ("packing first", "packed before"):
            skeleton, slots, experts, peak = run(IMPORTS + body + PEAK)
            over = peak - imported - skeleton - slots
            print(
                f"{name}: peak {peak / 1e6:.0f} MB, imports alone {imported / 1e6:.0f} MB, "
                f"skeleton {skeleton / 1e6:.0f} MB, slots and staging {slots / 1e6:.0f} MB "
                f"(all experts {experts / 1e6:.0f} MB): {over / 1e6:.0f} MB over their sum"
            )


if __name__ == "__main__":
    main()
