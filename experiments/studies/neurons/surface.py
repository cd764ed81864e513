"""Speed of neurons against whole experts over load times and slots, at equal device bytes.

`bench.py surface` runs this: the bundled model decodes behind an emulated link, whole experts with
LRU and gate lookahead against neurons in thin slots that have the bytes the predictor leaves.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from sides import Side, equal_bytes, over_prompts, parts_of, prompts_of, turn

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Setup, bind_selector, load_model, offload
from moex.train.data import corpus

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from torch import Tensor

    from moex.runner.assemble import LoadedModel

LOADS = (0.5, 1, 2, 4, 8)
SLOTS = (2, 3, 4)
TURNS = 2
"""Even, so that with every prompt either side begins as often."""
DRIFT, TRIES = 0.1, 4
"""A turn is measured again if a layer takes longer or less by this share after it than before."""


def surface(args: Namespace) -> Iterator[dict[str, Any]]:
    """A row a load time and number of slots; last, without any load time, each side's ceiling."""
    torch.set_num_threads(args.threads)
    whole, neurons = load_model("tiny"), load_model("tiny", bundles=True, store="ram")
    prompts, turns = prompts_of(whole)[: args.prompts], args.repeats or TURNS
    loads, slots = args.loads, args.slots
    if args.tiny:
        prompts, turns, loads, slots = prompts[:2], 1, (4.0,), (3,)
        args.tokens, args.windows = 4, 1
    lost = _loss(whole, neurons, args) if args.text else {}
    for ratio in (*loads, 0.0):
        for count in slots:
            yield {
                "case": "surface",
                "emulated": True,
                "load_over_layer": ratio,
                "slots": count,
                "selector": args.selector,
                "coarse": args.coarse if args.selector == "corm" else None,
                "mode": args.mode,
                "rank": args.rank,
                "fraction": args.fraction,
                "prompt_tokens": prompts[0].shape[1],
                "new_tokens": args.tokens,
                **_cell(whole, neurons, prompts, turns, ratio, count, args),
                **lost,
            }


def _cell(
    whole: LoadedModel,
    neurons: LoadedModel,
    prompts: list[Tensor],
    turns: int,
    ratio: float,
    slots: int,
    args: Namespace,
) -> dict[str, Any]:
    """Both sides over all prompts, so many turns; each sets its link from a layer's time now."""
    selector, prefetcher = parts_of(args)
    bind_selector(neurons, selector)
    prefetcher.bind(whole.geometry, neurons.folder, selector)
    spent = selector.device_bytes + prefetcher.device_bytes
    thin = equal_bytes(neurons, slots, args.rows, spent)
    kept, layers, drifts = [], [], []
    after = _layer_s(whole, prompts[:1], args.tokens)
    for number in range(turns):
        for _ in range(1 if args.tiny else TRIES):  # until the machine's speed is what it was
            layer_s = after
            speed = whole.geometry.expert_bytes / (ratio * layer_s) if ratio else float("inf")
            link = HardwareProfile("emulated", link_bytes_per_s=speed, chunk_bytes=1 << 16)
            with ExitStack() as stack:
                sides = [
                    Side(stack, "whole", whole, Memory(slots), Gate(), None, link),
                    Side(stack, "neurons", neurons, thin, prefetcher, selector, link),
                ]
                turn(sides, prompts[:1], args.tokens)  # warmth, not kept
                seconds, statistics = turn(sides, prompts, args.tokens, number)
            after = _layer_s(whole, prompts[:1], args.tokens)
            drift = max(layer_s, after) / min(layer_s, after) - 1
            if drift <= DRIFT:
                break
        kept.append(seconds)
        layers.append(layer_s)
        drifts.append(drift)
    assert statistics["neurons_device_bytes"] <= statistics["whole_device_bytes"]
    return {
        "layer_s": median(layers),
        "drift": max(drifts),
        "rows": thin.rows,
        **over_prompts(kept),
        **statistics,
        "predictor_share": spent / statistics["neurons_device_bytes"],
    }


def _layer_s(loaded: LoadedModel, prompts: list[Tensor], tokens: int) -> float:
    """Seconds of a layer now, with all experts there: median of five after one of warmth."""
    with ExitStack() as stack:
        every = Memory(loaded.geometry.experts)
        full = Side(stack, "full", loaded, every, NoPrefetch(), None, None)
        full.seconds(prompts, tokens)
        passes = [full.seconds(prompts, tokens, empty=False) for _ in range(5)]
    return median(passes) / loaded.geometry.layers


@torch.inference_mode()
def _loss(whole: LoadedModel, neurons: LoadedModel, args: Namespace) -> dict[str, Any]:
    """Held-out nats/token, masked against dense, as `mode=eval` runs them: masks in prefill."""
    selector, _ = parts_of(args)
    selector.prefill = "masked"
    memory = Memory(whole.geometry.experts)
    with tempfile.TemporaryDirectory(prefix="moex-loss-") as folder:
        text = corpus(args.text, whole.tokenizer(), Path(folder), 512, 10**9, 0)
        windows = [torch.from_numpy(text.batch(n, 1, held_out=True)) for n in range(args.windows)]
    nats = []
    for loaded, chosen in ((whole, None), (neurons, selector)):
        with offload(loaded, Setup(LRU(), memory, selector=chosen)) as model:
            nats.append([_nats(model, window) for window in windows])
    apart = [masked - dense for dense, masked in zip(*nats, strict=True)]
    return {
        "loss_dense_nats": mean(nats[0]),
        "loss_apart_nats": mean(apart),
        "loss_apart_stderr": stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None,
        "loss_windows": len(apart),
    }


def _nats(model: Any, window: Tensor) -> float:
    logits = model(window[:, :-1], use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), window[0, 1:]))
