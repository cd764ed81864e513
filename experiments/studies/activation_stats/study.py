"""How sparse, how skewed and how steady is the use of neurons? By layer, on text.

    python experiments/studies/activation_stats/study.py --text TOKENS.bin [--tiny]

The bundled model reads text; what every neuron truly contributes (`|silu(gate) * up| * ||down
column||`) is computed for each token and each of its experts. Prints the tables of the README and
draws activation_stats.png beside this file. What is ranked by half of the tokens is measured on the
other half, so that no neuron is hot by chance.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from experiments.harness import arguments, table
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.runner.assemble import Setup, load_model, offload
from moex.sparsity.active import active
from moex.train.activations import contributions, read
from moex.train.data import corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

    from moex.models.loader import LoadedModel

ENERGIES = (0.8, 0.9, 0.95, 0.99)
HOT = (0.1, 0.2)
FRACTION = 0.3
"""The active set whose use is counted: the best 30 % of a token, as `sparsity.fraction` has it."""

Row = dict[str, Any]


def needed(truth: Tensor) -> NDArray[np.float64]:
    """Least share of neurons with each share of a token's energy [tokens, len(ENERGIES)]."""
    sets = [active(truth, "energy", share).float().mean(1) for share in ENERGIES]
    return torch.stack(sets, 1).double().numpy()


def ranked(used: Tensor) -> NDArray[np.float64]:
    """How often each neuron is used [neurons], hottest first by the other half of the tokens."""
    halves = used[0::2].double().mean(0), used[1::2].double().mean(0)
    both = [mine[other.argsort(descending=True, stable=True)] for mine, other in
            (halves, halves[::-1])]  # fmt: skip
    return torch.stack(both).mean(0).numpy()


def power_law(rates: NDArray[np.float64]) -> tuple[float, float, float]:
    """Exponent of rate = c * rank ** -a, its R2, and the R2 of rate = c * exp(-b * rank).

    Least squares on the logarithm, both with two free numbers.
    """
    there = rates > 0
    rank, logs = np.arange(1, len(rates) + 1)[there], np.log(rates[there])
    spread = np.square(logs - logs.mean()).sum()
    fits = [np.polyfit(x, logs, 1, full=True) for x in (np.log(rank), rank)]
    power, exponential = (1 - float(fit[1][0]) / spread for fit in fits)
    return -float(fits[0][0][0]), power, exponential


def jaccard(a: Tensor, b: Tensor) -> float:
    """Mean over pairs of |both| / |either| of active sets [pairs, neurons]."""
    return float(((a & b).sum(1) / (a | b).sum(1)).mean()) if len(a) else float("nan")


def of_layer(loaded: LoadedModel, layer: int, hidden: Tensor, chosen: Tensor, context: int) -> Row:
    """One line of every table, means over the layer's experts weighted by their tokens."""
    found: list[Row] = []
    draw = np.random.default_rng(layer)
    for expert in range(loaded.geometry.experts):
        tokens = torch.nonzero((chosen == expert).any(1)).flatten()
        if len(tokens) < 4:
            continue
        truth = contributions(loaded, layer, expert, hidden[tokens])
        used = active(truth, "top", FRACTION)
        rates = ranked(used)
        exponent, power, exponential = power_law(rates)
        same_text = (tokens[1:] // context == tokens[:-1] // context).numpy()
        gap = (tokens[1:] - tokens[:-1]).numpy()
        again, next_to = np.flatnonzero(same_text), np.flatnonzero(same_text & (gap == 1))
        pairs = draw.integers(0, len(tokens), (2, len(tokens)))
        pairs = pairs[:, pairs[0] != pairs[1]]
        hot = [rates[: round(share * len(rates))].sum() / rates.sum() for share in HOT]
        found.append(
            {"tokens": len(tokens), "needed": needed(truth).mean(0), "hot": np.asarray(hot)}
            | {"rates": rates, "exponent": exponent, "r2": power, "r2_exponential": exponential}
            | {"always": float((rates > 0.9).mean()), "never": float((rates < 0.01).mean())}
            | {"neighbours": jaccard(used[next_to], used[next_to + 1])}
            | {"next use": jaccard(used[again], used[again + 1])}
            | {"any two": jaccard(used[pairs[0]], used[pairs[1]])}
        )
    weights = np.asarray([row["tokens"] for row in found], np.float64)
    names = [name for name in found[0] if name != "tokens"]
    means = {name: _mean([row[name] for row in found], weights) for name in names}
    return {"layer": layer, "tokens": int(weights.sum()), **means}


def _mean(values: list[Any], weights: NDArray[np.float64]) -> Any:
    stacked = np.asarray(values, np.float64)
    there = ~np.isnan(stacked.reshape(len(values), -1)).any(1)
    mean = np.average(stacked[there], axis=0, weights=weights[there])
    return mean.tolist()


def measure(loaded: LoadedModel, text: str, windows: int, context: int) -> list[Row]:
    """A row a layer, of so many windows of the text."""
    with tempfile.TemporaryDirectory(prefix="moex-text-") as work:
        found = corpus(text, loaded.tokenizer(), Path(work), context, 10**9, 0)
        batches = [torch.from_numpy(found.batch(n, 1)) for n in range(windows)]
    with offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts))) as model:
        seen = [read(model, loaded.layers, batch) for batch in batches]
    rows = []
    for layer in range(loaded.geometry.layers):
        hidden = torch.cat([each[layer].hidden for each in seen])
        chosen = torch.cat([each[layer].chosen for each in seen])
        rows.append(of_layer(loaded, layer, hidden, chosen, context))
    return rows


def draw(rows: list[Row], about: str) -> Figure:
    """Four panels: share needed, use by rank, use by the hottest, overlap."""
    figure, axes = new(2, 2, (WIDE, 4.6))
    layers = [row["layer"] for row in rows]
    for number, share in enumerate(ENERGIES):
        look: Row = {"color": COLOURS[number], "marker": MARKERS[number]}
        line = [100 * row["needed"][number] for row in rows]
        axes[0][0].plot(layers, line, label=f"{share:.0%} of the energy", **look)
    axes[0][0].set(xlabel="layer", ylabel="neurons needed a token (%)", ylim=(0, 48))
    axes[0][0].legend(loc="upper right", ncol=2)
    count = len(rows[0]["rates"])
    ranks = 100 * np.arange(1, count + 1) / count
    for row, colour in zip(rows, COLOURS, strict=False):
        look = {"color": colour, "label": f"layer {row['layer']}"}
        axes[0][1].loglog(ranks, 100 * np.asarray(row["rates"]), **look)
        whole = np.cumsum(row["rates"]) / np.sum(row["rates"])
        axes[1][0].plot(ranks, 100 * whole, color=colour)
    middle = np.mean([row["exponent"] for row in rows])
    power = np.arange(1, count + 1) ** -middle
    power *= np.exp(np.log(100 * np.mean([row["rates"] for row in rows], axis=0) / power).mean())
    label = f"power law, exponent {middle:.2f}"
    axes[0][1].loglog(ranks, power, color="0.45", linestyle="--", label=label)
    axes[0][1].set(
        xlabel="neurons, hottest first (%, logarithmic)", ylabel="tokens that use it (%)"
    )
    axes[0][1].legend(loc="lower left")
    axes[1][0].plot([0, 100], [0, 100], color="0.45", linestyle=(0, (1, 1.5)), label="all alike")
    most = np.minimum(np.arange(101) / FRACTION, 100)
    axes[1][0].plot(range(101), most, color="0.45", linestyle="--", label="always the same")
    axes[1][0].set(xlabel="hottest neurons (%)", ylabel="share of all uses (%)")
    axes[1][0].legend(loc="lower right")
    for number, name in enumerate(("neighbours", "next use", "any two")):
        look = {"color": COLOURS[number], "marker": MARKERS[number]}
        axes[1][1].plot(layers, [row[name] for row in rows], label=PAIRS[name], **look)
    chance = FRACTION / (2 - FRACTION)
    axes[1][1].axhline(chance, color="0.45", linestyle=(0, (1, 1.5)), label="independent sets")
    axes[1][1].set(xlabel="layer", ylabel="overlap of active sets (Jaccard)", ylim=(0, 1))
    axes[1][1].legend()
    return caption(figure, about)


PAIRS = {
    "neighbours": "neighbouring tokens, same expert",
    "next use": "an expert's next token, same text",
    "any two": "any two tokens of an expert",
}


def cells(row: Row) -> Iterator[str]:
    """Cells of a line of the README's table."""
    yield str(row["layer"])
    yield from (f"{100 * value:.1f} %" for value in (*row["needed"], *row["hot"]))
    yield from (f"{row[name]:.2f}" for name in ("exponent", "r2", "r2_exponential"))
    yield from (f"{100 * row[name]:.1f} %" for name in ("always", "never"))
    yield from (f"{row[name]:.2f}" for name in PAIRS)


def main() -> None:
    """Measure, print, draw."""
    args = arguments(
        __doc__,
        text=(str, "tokens (FILE.bin) or text, held out"),
        windows=(32, "of 512 tokens"),
        out=Path(__file__).parent,
    )
    torch.set_num_threads(1)
    windows, context = (2, 64) if args.tiny else (args.windows, 512)
    loaded = load_model("tiny")
    rows = measure(loaded, args.text, windows, context)
    heads = [f"{share:.0%}" for share in ENERGIES] + [f"hottest {share:.0%}" for share in HOT]
    heads += ["exponent", "R2", "R2 exponential", "in > 90 %", "in < 1 %", *PAIRS]
    table(["layer", *heads], map(cells, rows))
    about = (
        f"Bundled model, {windows * context} tokens of text that it has not read. Energy: squares "
        f"of what neurons contribute. Use: being in the best {FRACTION:.0%} of a token; ranked by "
        "half of the tokens, counted on the other. Means over a layer's experts."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    with styled():
        figure = draw(rows, about)
        figure.savefig(args.out / "activation_stats.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
