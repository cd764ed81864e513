"""How good trained predictors are on held-out text: the tables in their checkpoints.

Recall is the share of the true set that was named, precision of the named that are true; both are
means over tokens of one layer. Energy recall is the share of the summed squares of contributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moex.sparsity.active import active

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from moex.predictors.lowrank import LayerFactors
    from moex.train.activations import Router
    from moex.train.experts import ExpertTrainer

Row = dict[str, Any]


@torch.no_grad()
def of_experts(
    trainer: ExpertTrainer, routers: Sequence[Router], batches: Sequence[tuple[Any, int]]
) -> list[Row]:
    """One row a layer, horizon and number named: the networks and the gate.

    `all_named` is the share of tokens of which every expert was named.
    """
    geometry, rows = trainer.geometry, []
    examples = [(seen, *trainer.examples(seen, windows)) for seen, windows in batches]
    for layer, net in enumerate(trainer.modules):
        ahead = slice(layer + 1, layer + 1 + net.horizon)
        logits = torch.cat(
            [
                net(seen[layer].hidden, chosen[layer], torch.stack(past[ahead], dim=1))
                for seen, chosen, past in examples
            ]
        )
        wanted = torch.cat([torch.stack(chosen[ahead], dim=1) for _, chosen, _ in examples])
        hidden = torch.cat([seen[layer].hidden for seen, _, _ in examples])
        for horizon in range(1, net.horizon + 1):
            true = wanted[:, horizon - 1]
            weight, bias = routers[layer + horizon]
            gate = hidden @ weight.T + bias
            for named in range(geometry.top_k, min(2 * geometry.top_k, geometry.experts) + 1):
                row: Row = {"layer": layer + horizon, "horizon": horizon, "named": named}
                for name, scores in (("", logits[:, horizon - 1]), ("gate_", gate)):
                    hits = true.gather(1, scores.topk(named).indices).sum(1)
                    row[f"{name}recall"] = float(hits.mean()) / geometry.top_k
                    row[f"{name}precision"] = float(hits.mean()) / named
                    row[f"{name}all_named"] = float((hits == geometry.top_k).float().mean())
                rows.append(row)
    return rows


class Sums:
    """Sums over tokens of what a way of selecting got right."""

    def __init__(self) -> None:
        self.tokens = self.recall = self.precision = self.energy = 0.0

    def add(self, chosen: Tensor, true: Tensor, contribution: Tensor) -> None:
        """Count tokens; all [tokens, intermediate], the first two are masks."""
        both, squares = (chosen & true).sum(1), contribution.double().square()
        self.tokens += len(chosen)
        self.recall += float((both / true.sum(1)).sum())
        self.precision += float((both / chosen.sum(1).clamp(min=1)).sum())
        self.energy += float(((squares * chosen).sum(1) / squares.sum(1)).sum())

    def row(self, **names: Any) -> Row:
        """Means over tokens."""
        n = max(self.tokens, 1)
        return {
            **names,
            "neuron_recall": self.recall / n,
            "neuron_precision": self.precision / n,
            "energy_recall": self.energy / n,
        }


@torch.no_grad()
def of_neurons(
    modules: Sequence[LayerFactors],
    contributions: Callable[[int, int, Tensor], Tensor],
    batches: Sequence[Sequence[Any]],
    fraction: float = 0.3,
    rule: str = "top",
) -> list[Row]:
    """One row a layer and a way: late, predicted, freq (always the same neurons), oracle.

    Args:
        modules: the layers' factors.
        contributions: true ones of (layer, expert, states) [tokens, intermediate].
        batches: what the layers saw; the frequencies are of these very tokens, in favour of freq.
        fraction: that the true set and every chosen one have.
        rule: see `moex.sparsity.active`.
    """
    rows = []
    for layer, factors in enumerate(modules):
        sums = {name: Sums() for name in ("late", "predicted", "freq", "oracle")}
        for expert in range(len(factors.scale)):
            own, before = states(batches, layer, expert)
            if not len(own):
                continue
            truth = contributions(layer, expert, own)
            true = active(truth, rule, fraction)
            usual = true.float().mean(0).expand_as(truth)
            ways = {"oracle": true, "freq": active(usual, "top", fraction)}
            prefetches = {"late": factors.encode(own, False)}
            if before is not None:
                prefetches["predicted"] = factors.encode(before, True)
            for name, codes in prefetches.items():
                ways[name] = active(factors.estimate(codes, [expert])[0], rule, fraction)
            for name, chosen in ways.items():
                sums[name].add(chosen, true, truth)
        rows += [each.row(layer=layer, way=name) for name, each in sums.items() if each.tokens]
    return rows


def states(
    batches: Sequence[Sequence[Any]], layer: int, expert: int
) -> tuple[Tensor, Tensor | None]:
    """States of the tokens that chose an expert: the layer's own, and of the layer before."""
    chose = [(seen[layer].chosen == expert).any(1) for seen in batches]
    own = [seen[layer].hidden[each] for seen, each in zip(batches, chose, strict=True)]
    if not layer:
        return torch.cat(own), None
    before = [seen[layer - 1].hidden[each] for seen, each in zip(batches, chose, strict=True)]
    return torch.cat(own), torch.cat(before)


@torch.no_grad()
def calibrate(modules: Sequence[LayerFactors], batches: Sequence[Sequence[Any]]) -> None:
    """Set every expert's thresholds from the estimates of the tokens that chose it."""
    for layer, factors in enumerate(modules):
        grid = factors.cuts.shape[-1]
        for expert in range(len(factors.scale)):
            for early, state in enumerate(states(batches, layer, expert)):
                if state is None or not len(state):
                    continue
                found = factors.estimate(factors.encode(state[-2048:], bool(early)), [expert])
                ordered = found.flatten().sort(descending=True).values
                last = len(ordered) - 1
                positions = [last * (share + 1) // grid for share in range(grid)]
                factors.cuts[early, expert] = ordered[positions]
                factors.cuts[early, expert, -1] = 0.0
