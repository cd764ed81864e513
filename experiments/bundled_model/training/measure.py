"""What the bundled model is: held-out bits per byte, and how it routes, layer by layer.

Routing is recorded on held-out text, token by token: the model reads the text instead of its own
output (greedy output of a small model falls into loops, which would flatter every cache).

    cd experiments/bundled_model/training
    python measure.py --text TEXT_DIR --trace ../../../moex/assets/traces/tiny.parquet

With `--predictions` the trace of `--trace` also holds what the bundled mlp scores at every visit:
all experts of the three layers ahead.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.harness import arguments, table
from moex.api import simulate
from moex.cache.lru import LRU
from moex.evals.bits import bits_per_byte
from moex.evals.text import documents, encode
from moex.models import checkpoint, experts_interface
from moex.prefetch.base import Observation
from moex.prefetch.mlp import MLP
from moex.runs.provenance import provenance
from moex.store.layout import Planes
from moex.trace.diagnostics import decoded, entropy_bits, overlap, usage
from moex.trace.format import DEPTHS, Trace, write_trace
from moex.trace.record import TraceRecorder
from moex.types import DECODE, Access

WINDOW = 256


def windows(tokenizer, text: Path, count: int) -> list[list[int]]:
    """`count` windows of held-out text, spread over all documents of the test split."""
    texts = [encode(tokenizer, body) for _, _, body in documents(text, ["test"])]
    texts = [ids for ids in texts if len(ids) > 2 * WINDOW]
    chosen = []
    for number in range(count):
        ids = texts[number % len(texts)]
        start = (number // len(texts) * 7919 + 101 * number) % (len(ids) - WINDOW)
        chosen.append(ids[start : start + WINDOW])
    return chosen


@torch.inference_mode()
def record(
    model,
    layers: list[experts_interface.MoeLayer],
    texts: list[list[int]],
    predictor: MLP | None = None,
) -> Trace:
    """The routing of every token of the texts, as decoding them would give it."""
    geometry = experts_interface.geometry(model, layers, Planes(layers[0].tensors).bytes)
    if predictor:
        predictor.bind(geometry, checkpoint.find("tiny"))
        predictor.reset(geometry, seed=0)
    inputs: list[torch.Tensor] = []
    hooks = [
        layer.router.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for layer in layers
    ]
    recorder = TraceRecorder(geometry)
    for sequence, ids in enumerate(texts):
        inputs.clear()
        model(torch.tensor([ids]), use_cache=False)
        rows = []
        for number, hidden in enumerate(inputs):
            weights = [layer.router.weight for layer in layers[number : number + 1 + DEPTHS]]
            logits = functional.linear(hidden.reshape(-1, hidden.shape[-1]), torch.cat(weights))
            split = logits.view(len(ids), -1, geometry.experts)
            scores = split.softmax(-1, dtype=torch.float32)
            # the model's own choice: its router's softmax, top-k of it
            chosen = split[:, 0].float().softmax(-1).topk(geometry.top_k).indices
            rows.append((scores.tolist(), chosen.tolist()))
        for position in range(len(ids)):
            for number, (scores, chosen) in enumerate(rows):
                own, *ahead = (tuple(row) for row in scores[position])
                access = Access(0, position, number, DECODE, tuple(chosen[position]), own)
                said = []
                if predictor:
                    hidden = inputs[number].reshape(len(ids), -1)[position : position + 1]
                    used = torch.tensor([chosen[position]])
                    seen = Observation(access, tuple(ahead), hidden, chosen=used)
                    predictor.observe(seen)
                    said = predictor.predict(seen)
                recorder.add(sequence, access, tuple(ahead), said)
    for hook in hooks:
        hook.remove()
    return recorder.trace({})


def recall(trace: Trace, depth: int) -> np.ndarray:
    """Share of the experts that layer l + depth uses among its top-k lookahead scores at l."""
    layers, experts, top_k = trace.geometry[:3]
    used = np.zeros((len(trace), experts), bool)
    used[np.repeat(np.arange(len(trace)), np.diff(trace.offsets)), trace.experts] = True
    used = used.reshape(-1, layers, experts)
    ahead = trace.lookahead.reshape(-1, layers, DEPTHS, experts)[:, :-depth, depth - 1]
    best = np.argsort(-ahead, axis=-1)[..., :top_k]
    return np.take_along_axis(used[:, depth:], best, axis=-1).mean(axis=(0, 2))


def main() -> None:
    """Print markdown tables."""
    args = arguments(
        __doc__,
        tiny={"tokens": 512, "skip_bits": True},
        text=Path,
        tokens=32768,
        trace=(None, "write the routing of the first 1024 tokens", Path),
        predictions=(False, "record what the mlp predicts"),
        skip_bits=False,
    )
    folder = checkpoint.find("tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    if not args.skip_bits:
        rows = bits_per_byte(
            model, tokenizer, args.text, splits=["test"], stride=512, batch_size=16
        )
        for row in rows:
            print("{task} {metric} {value:.4f} +- {stderr:.4f} (n={n})".format(**row))
    layers = experts_interface.moe_layers(model)
    texts = windows(tokenizer, args.text, args.tokens // WINDOW)
    predictor = MLP(depth=DEPTHS, width=layers[0].experts.down_proj.shape[0])
    trace = record(model, layers, texts, predictor if args.predictions else None)
    if args.trace:
        args.trace.parent.mkdir(parents=True, exist_ok=True)
        sample = trace.select(slice(0, 1024 * len(layers)))
        sample.provenance = {
            "model": "tiny",
            "workload": "held-out text, read token by token",
            "cold": False,
            **provenance(),
        }
        write_trace(sample, args.trace)
    shares = usage(decoded(trace))
    both = overlap(decoded(trace))
    any_shared = consecutive(trace)
    hits = [layer_hits(trace, slots) for slots in (2, 3, 4)]
    looks = [np.append(np.full(depth, np.nan), recall(trace, depth)) for depth in (1, 2, 3)]
    print(f"routing of {len(trace) // len(layers)} held-out tokens")
    columns = (entropy_bits(shares), any_shared, both)
    table(
        ["layer", "load min-max", "entropy, bits of 3", "next token shares an expert", "overlap"],
        (
            [n, f"{row.min():.3f}-{row.max():.3f}", *(f"{column[n]:.2f}" for column in columns)]
            for n, row in enumerate(shares)
        ),
    )
    cells = [["-" if np.isnan(v) else f"{v:.2f}" for v in column] for column in (*hits, *looks)]
    means = [f"{np.nanmean(column):.3f}" for column in (*hits, *looks)]
    table(
        ["layer", "LRU hit, 2 slots", 3, 4, "gate recall, depth 1", 2, 3],
        [*([n, *row] for n, row in enumerate(zip(*cells, strict=True))), ["mean", *means]],
    )


def consecutive(trace: Trace) -> np.ndarray:
    """Probability that consecutive tokens share at least one expert [layers]."""
    layers, _, top_k = trace.geometry[:3]
    chosen = trace.experts.reshape(-1, layers, top_k)
    same = (chosen[1:, :, :, None] == chosen[:-1, :, None, :]).any(axis=(2, 3))
    sequence = trace.sequence[::layers]
    return same[sequence[1:] == sequence[:-1]].mean(axis=0)


def layer_hits(trace: Trace, slots: int) -> list[float]:
    """LRU's hit rate in every layer, the cache carried over from window to window."""
    counts = np.zeros((trace.geometry.layers, 2), int)

    def count(plan) -> None:
        demanded = (*plan.hits, *(load.expert for load in plan.loads))
        if demanded:
            counts[demanded[0].layer] += len(plan.hits), len(demanded)

    simulate(trace, LRU(), slots, on_plan=count)
    return list(counts[:, 0] / counts[:, 1])


if __name__ == "__main__":
    main()
