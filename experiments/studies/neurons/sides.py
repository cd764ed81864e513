"""The sides of a comparison of whole experts and neurons, at equal device bytes."""

from __future__ import annotations

from statistics import geometric_mean, mean, median
from typing import TYPE_CHECKING, Any

import torch
import yaml

from analysis.paired import paired_ratio
from experiments.harness import ROOT
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Setup, offload
from moex.sparsity.oracle import Oracle
from moex.sparsity.random import Random
from moex.store.bundles import Bundles
from moex.types import DECODE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from contextlib import ExitStack

    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.runner.assemble import LoadedModel
    from moex.runner.routing_replay import RoutingReplay
    from moex.sparsity.base import NeuronSelector


class Side:
    """One side of the comparison, kept open so that turns can be interleaved."""

    def __init__(
        self,
        stack: ExitStack,
        name: str,
        loaded: LoadedModel,
        memory: Memory,
        prefetcher: Prefetcher,
        selector: NeuronSelector | None,
        link: HardwareProfile | None = None,
        routing: RoutingReplay | None = None,
        governor: bool = False,
    ) -> None:
        self.name, self.selector = name, selector
        setup = Setup(LRU(), memory, prefetcher, link, selector=selector, governor=governor)
        self.run = offload(loaded, setup)
        if routing is not None:
            self.run.replay(routing)
        self.model = stack.enter_context(self.run)

    def seconds(self, prompts: list[torch.Tensor], tokens: int, empty: bool = True) -> float:
        """Seconds a decoded token, from an empty cache or from what is there."""
        if empty:
            self.run.restart()
        self.run.meter.reset()
        generate(self.model, prompts, tokens, self.run.meter)
        self.run.finish()
        decode = self.run.meter.phases[DECODE]
        return decode.seconds / decode.passes

    def statistics(self) -> dict[str, Any]:
        """Statistics of the last `seconds`."""
        run = self.run
        decode, counts = run.meter.phases[DECODE], run.cache_stats.phases[DECODE]
        predictor = sum(each.device_bytes for each in (self.selector, run.prefetcher) if each)
        found = {
            "slots_made": run.cache.slots,
            "device_bytes": run.slots.bytes + predictor,
            "predictor_bytes": predictor,
            "bytes_demand": counts.bytes_demand,
            "bytes_prefetch": counts.bytes_prefetch,
            "stall_share": decode.stall_s / decode.seconds,
        }
        return {f"{self.name}_{name}": value for name, value in found.items()}


def turn(
    sides: Sequence[Side], prompts: Sequence[torch.Tensor], tokens: int, number: int = 0
) -> tuple[list[list[float]], dict[str, Any]]:
    """Every prompt once on every side, each from an empty cache, the sides one after the other.

    Which side begins alternates from prompt to prompt, and between turns of odd and even `number`.

    Returns:
        Seconds a decoded token [prompt][side], and every side's statistics, mean over the prompts.
    """
    seconds = [[0.0] * len(sides) for _ in prompts]
    counted: dict[str, list[Any]] = {}
    for slot, prompt in enumerate(prompts):
        order = list(enumerate(sides))
        for which, side in order[:: -1 if (slot + number) % 2 else 1]:
            seconds[slot][which] = side.seconds([prompt], tokens)
            for name, value in side.statistics().items():
                counted.setdefault(name, []).append(value)
    return seconds, {name: mean(values) for name, values in counted.items()}


def over_prompts(
    turns: Sequence[Sequence[Sequence[float]]], names: tuple[str, str] = ("whole", "neurons")
) -> dict[str, Any]:
    """Speed of the second side over the first, from seconds [turn][prompt][side] of two sides.

    A prompt's speedup is the geometric mean over its turns; `speedup` is the median prompt's, `low`
    and `high` are the 95 % interval over prompts (Student's t, of their geometric mean), so it says
    how far other prompts like these may be, which repeats of one prompt cannot. `runs_*` is about
    single pairs of runs: their number, the least and the most.

    Raises:
        ValueError: fewer than two prompts.
    """
    prompts = list(zip(*turns, strict=True))
    first, second = (
        [geometric_mean([pair[side] for pair in pairs]) for pairs in prompts] for side in (0, 1)
    )
    gain = paired_ratio(first, second)
    runs = [pair[0] / pair[1] for pairs in prompts for pair in pairs]
    return {
        **{"speedup": gain.median, "low": gain.low, "high": gain.high, "prompts": gain.pairs},
        "by_prompt": [a / b for a, b in zip(first, second, strict=True)],
        **{"runs": len(runs), "runs_least": min(runs), "runs_most": max(runs)},
        **{f"{names[0]}_s": median(first), f"{names[1]}_s": median(second)},
        "seconds": turns,
    }


def parts_of(args: Namespace) -> tuple[NeuronSelector, Prefetcher]:
    """The selector and the prefetcher that are compared with whole experts."""
    if args.selector == "corm":
        from moex.prefetch.corm import Corm as Fetch
        from moex.prefetch.linear import Linear
        from moex.prefetch.mlp import MLP
        from moex.sparsity.corm import Corm

        chosen = Corm(fraction=args.fraction, mode=args.mode, rank=args.rank)
        return chosen, Fetch({"mlp": MLP, "linear": Linear, "gate": Gate}[args.coarse]())
    made = {"oracle": Oracle, "random": Random}[args.selector]
    return made(fraction=args.fraction, mode=args.mode), NoPrefetch()


def equal_bytes(loaded: LoadedModel, slots: int, rows: float, predictor: int) -> Memory:
    """Thin slots for the bytes of so many whole slots and their staging, less the predictor's.

    As many slots as fit with at least `rows` of an expert each; then as many rows as still fit.
    """
    geometry, layout = loaded.geometry, loaded.layout
    assert isinstance(layout, Bundles)
    staging = Memory(slots).slots_beside(geometry)
    free = (slots * geometry.layers + staging) * geometry.expert_bytes - predictor

    def made(capacity: int) -> int:
        return (free // layout.planes(capacity).bytes - staging) // geometry.layers

    capacity = round(rows * geometry.intermediate)
    if (count := min(made(capacity), geometry.experts)) < geometry.top_k:
        raise SystemExit(
            f"--rows {rows}: at {slots} slots the predictor ({predictor} bytes) leaves room for "
            f"{count} slots a layer; expected {geometry.top_k}: try a smaller --rows or --rank"
        )
    while capacity < geometry.intermediate and made(capacity + 1) >= count:
        capacity += 1
    return Memory(count, rows=capacity / geometry.intermediate)


def prompts_of(loaded: LoadedModel) -> list[torch.Tensor]:
    """The bundled workload's prompts, 16 tokens each."""
    texts = yaml.safe_load((ROOT / "conf" / "workload" / "short.yaml").read_text())["prompts"]
    tokenizer = loaded.tokenizer()
    return [torch.tensor([tokenizer(text)["input_ids"][:16]]) for text in texts]
