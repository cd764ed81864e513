"""Measures this machine running this model: the costs that a simulation of it needs."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from moex.cache.capacity import Memory
from moex.cache.lru import LRU
from moex.runner import hf
from moex.runner.assemble import offload
from moex.runner.meter import synchronize
from moex.runner.workload import generate
from moex.sim.hardware import HardwareProfile
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.runner.assemble import Parts

ROUNDS = 7


def calibrate(parts: Parts, tokens: int = 64) -> HardwareProfile:
    """Time decoding with all experts resident, one expert, the head, and the plain copy link.

    The visit's cost is what remains of a token's time: attention, norms, routing and the runner's
    own bookkeeping. All are medians; nothing else should run meanwhile.
    """
    geometry = parts.geometry
    offloaded = offload(parts, LRU(), Memory(geometry.experts))
    prompt = torch.arange(16, 48, device=parts.device)[None] % parts.model.config.vocab_size
    passes = []
    with offloaded as model:
        for _ in range(ROUNDS):
            offloaded.meter.reset()
            generate(model, [prompt], tokens, offloaded.meter)
            lines = [line for line in offloaded.meter.series if line["phase"] == DECODE]
            # Loads of the cold start are no computing.
            passes.append(median(line["seconds"] - line["stall_s"] for line in lines))
    expert_s = _expert_seconds(parts, offloaded.slots.tensors)
    pass_s = _head_seconds(parts)
    visit_s = (median(passes) - pass_s) / geometry.layers - geometry.top_k * expert_s
    return HardwareProfile(
        name="measured",
        link_bytes_per_s=geometry.expert_bytes / _copy_seconds(parts),
        visit_s=max(0.0, visit_s),
        expert_s=expert_s,
        pass_s=pass_s,
        source=f"{parts.folder.name} on this machine, {torch.get_num_threads()} threads",
    )


def _median_of(call: Callable[[int], object], count: int) -> float:
    """Median over rounds of the mean seconds of `count` calls."""
    rounds = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            synchronize()
            started = perf_counter()
            for number in range(count):
                call(number)
            synchronize()
            rounds.append((perf_counter() - started) / count)
    return median(rounds)


def _expert_seconds(parts: Parts, tensors: list[dict[str, torch.Tensor]]) -> float:
    experts = parts.layers[0].experts
    kind = parts.layout.parts[0].dtype
    token = torch.randn(1, parts.geometry.hidden, device=parts.device).to(kind)
    return _median_of(
        lambda number: hf.expert_output(experts, token, tensors[number % len(tensors)]), 48
    )


def _head_seconds(parts: Parts) -> float:
    head = parts.model.get_output_embeddings()
    state = torch.randn(1, 1, head.weight.shape[1], device=parts.device).to(head.weight.dtype)
    return _median_of(lambda _: head(state).argmax(-1), 16)


def _copy_seconds(parts: Parts) -> float:
    out = torch.empty(parts.layout.bytes, dtype=torch.uint8, device=parts.device)
    geometry = parts.geometry
    return _median_of(
        lambda number: parts.store.read(
            Expert(number % geometry.layers, number % geometry.experts), out
        ),
        48,
    )
