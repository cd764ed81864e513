"""Train the bundled Mixtral from scratch on the token files that prepare.py wrote.

Plain fp32 on CPU (or a GPU, when there is one); Muon for the matrices, AdamW for the rest; a
constant learning rate that falls to zero over the last `--decay` steps; load balancing taken per
layer (pooled over layers, experts die). Every checkpoint resumes exactly: the batches are a seeded
permutation indexed by the step number.

    cd experiments/bundled_model/training
    python train.py --data WORK_DIR --out RUN_DIR --steps 3000 --decay 600

To stop early, stop the process and run again with `--steps LAST+600 --decay 600`: it goes on from
its last checkpoint. On Linux, MALLOC_MMAP_THRESHOLD_=8589934592 and
MALLOC_TRIM_THRESHOLD_=8589934592 in the environment save a quarter of the time (the large
temporaries are kept instead of being mapped anew).
"""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from experiments.harness import arguments

SEQUENCE = 512
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def model_config(vocab: int) -> MixtralConfig:
    """8 experts, top-2, 6 layers; an expert is 3 x 256 x 384 weights, 590 kB in bf16."""
    return MixtralConfig(
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=SEQUENCE,
        rope_theta=10_000.0,
        sliding_window=None,
        tie_word_embeddings=True,
        output_router_logits=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )


def sorted_experts(
    module: torch.nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """One matrix product per expert over its tokens: on CPU faster to train than stock's."""
    top_k = index.shape[-1]
    order = torch.argsort(index.flatten())
    counts = torch.bincount(index.flatten(), minlength=module.num_experts).tolist()
    outputs = []
    for expert, tokens in enumerate(hidden[order // top_k].split(counts)):
        gate, up = torch.nn.functional.linear(tokens, module.gate_up_proj[expert]).chunk(2, dim=-1)
        outputs.append(
            torch.nn.functional.linear(module.act_fn(gate) * up, module.down_proj[expert])
        )
    weighted = torch.cat(outputs) * weights.flatten()[order, None]
    return torch.zeros_like(hidden).index_add(0, order // top_k, weighted)


class Muon:
    """Momentum, then the nearest semi-orthogonal matrix (Jordan 2024).

    Scaled as in Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        self.parameters, self.momentum, self.weight_decay = parameters, momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in parameters]

    @staticmethod
    def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
        """Push all singular values of a batch of matrices towards one."""
        tall = matrices.shape[-2] > matrices.shape[-1]
        x = matrices.mT if tall else matrices
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        a, b, c = NEWTON_SCHULZ
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """Apply one update at this learning rate."""
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            buffer.lerp_(parameter.grad, 1 - self.momentum)
            direction = torch.lerp(parameter.grad, buffer, self.momentum)
            # Gate and up are two matrices.
            if parameter.ndim == 3 and parameter.shape[1] > parameter.shape[2]:
                direction = direction.unflatten(1, (2, -1)).flatten(0, 1)
            scale = 0.2 * math.sqrt(max(direction.shape[-2:]))
            change = self.orthogonalise(direction).reshape(parameter.shape)
            parameter.mul_(1 - lr * self.weight_decay).add_(change, alpha=-lr * scale)


def balance_loss(
    router_logits: tuple[torch.Tensor, ...], top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Switch-style balancing loss summed per layer, and the load shares [layers, experts]."""
    total, loads = torch.zeros(()), []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter_(
            1, logits.topk(top_k, dim=-1).indices, 1.0
        )
        load = chosen.mean(0) / top_k
        total = total.to(logits.device) + logits.shape[-1] * (load * probabilities.mean(0)).sum()
        loads.append(load)
    return total, torch.stack(loads)


@torch.no_grad()
def evaluate(model: torch.nn.Module, tokens: np.ndarray, windows: int, device: str) -> float:
    """Mean loss in nats/token over evenly spread windows."""
    model.eval()
    starts = np.linspace(0, len(tokens) - SEQUENCE - 1, windows).astype(int)
    losses = []
    for group in np.array_split(starts, max(1, windows // 16)):
        batch = torch.from_numpy(
            np.stack([tokens[s : s + SEQUENCE + 1] for s in group]).astype(np.int64)
        ).to(device)
        logits = model(batch[:, :-1], use_cache=False).logits
        losses.append(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), batch[:, 1:].flatten()
            ).item()
        )
    model.train()
    return float(np.mean(losses))


def save(path: Path, state: dict) -> None:
    """Write a checkpoint whole or not at all."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    """Train, log a line every 20 steps, save every 100."""
    args = arguments(
        __doc__,
        tiny={"batch": 1},
        data=Path,
        out=Path,
        steps=int,
        decay=int,
        batch=(16, "sequences of 512 tokens in a batch"),
        lr_muon=6e-3,
        lr_adam=3e-3,
        threads=2,
    )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    train = np.memmap(args.data / "train.bin", dtype=np.uint16, mode="r")
    valid = np.memmap(args.data / "valid.bin", dtype=np.uint16, mode="r")
    meta = json.loads((args.data / "meta.json").read_text())
    parts = [counts for name, counts in meta.items() if name.startswith("valid/")]
    tokens_a_byte = sum(c["tokens"] for c in parts) / sum(c["bytes"] for c in parts)
    bits = tokens_a_byte / math.log(2)  # nats/token -> bits a byte
    vocab = len(json.loads((args.data / "tokenizer.json").read_text())["model"]["vocab"])

    ALL_EXPERTS_FUNCTIONS.register("sorted_experts", sorted_experts)
    config = model_config(vocab)
    model = MixtralForCausalLM(config).to(device)
    model.set_experts_implementation("sorted_experts")
    model.set_attn_implementation("sdpa")
    named = {n: p for n, p in model.named_parameters() if "embed" not in n and ".gate." not in n}
    matrices = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=args.lr_adam, betas=(0.9, 0.95), weight_decay=0.0)
    checkpoint, step = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.buffers, step = state["muon"], state["step"]
    order = np.random.default_rng(0).permutation((len(train) - 1) // SEQUENCE)
    needed = args.steps * args.batch
    order = np.concatenate([order] * (needed // len(order) + 1))[:needed]
    model.train()
    started, log = time.perf_counter(), (args.out / "log.jsonl").open("a")
    while step < args.steps:
        starts = order[step * args.batch : (step + 1) * args.batch] * SEQUENCE
        batch = np.stack([train[s : s + SEQUENCE + 1] for s in starts]).astype(np.int64)
        tokens = torch.from_numpy(batch).to(device)
        out = model(tokens[:, :-1], output_router_logits=True, use_cache=False)
        loss = torch.nn.functional.cross_entropy(
            out.logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        )
        balance, loads = balance_loss(out.router_logits, config.num_experts_per_tok)
        (loss + 0.01 * balance).backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        factor = min(1.0, (step + 1) / 100, (args.steps - step) / args.decay)
        for group in adam.param_groups:
            group["lr"] = args.lr_adam * factor
        adam.step()
        muon.update(args.lr_muon * factor)
        model.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0 or step == args.steps:
            line = {
                "step": step,
                "tokens": step * args.batch * SEQUENCE,
                "train_nats": round(loss.item(), 4),
                "train_bits_per_byte": round(loss.item() * bits, 4),
                "lr_factor": round(factor, 4),
                "load_min": round(loads.min().item(), 4),
                "load_max": round(loads.max().item(), 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
            if step % 200 == 0:
                line["valid_nats"] = round(evaluate(model, valid, 64, device), 4)
                line["valid_bits_per_byte"] = round(line["valid_nats"] * bits, 4)
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(json.dumps(line), flush=True)
        if step % 100 == 0 or step == args.steps:
            state = {
                "model": model.state_dict(),
                "adam": adam.state_dict(),
                "muon": muon.buffers,
                "step": step,
            }
            save(checkpoint, state)


if __name__ == "__main__":
    main()
