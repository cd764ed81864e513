"""What does cache-aware routing save, and what does it cost, against swaps at random?

    python experiments/studies/routing/study.py --text FOLDER [--texts 48] [--tiny]

Texts are fed token by token through the live cache (LRU, no prefetcher, every text from cold), with
`cache_prior` and then with `random_swap` at the swap rate that `cache_prior` had at these slots.
Losses and divergences are from the same model with its own routing, fed in the same way. Without
--text the bundled sentences are scored, which support no claim.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness import append, arguments, table
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.evals.dense import DenseLogits
from moex.evals.items import read_items
from moex.evals.loss import ABOVE, KL, beside_dense, held_out_texts, mean_and_stderr
from moex.evals.stepwise import stepwise
from moex.routing.cache_prior import CachePrior
from moex.routing.random_swap import RandomSwap
from moex.runner.assemble import Setup, load_model, offload
from moex.types import DECODE

if TYPE_CHECKING:
    from moex.routing.base import RoutingPolicy
    from moex.runner.assemble import LoadedModel

Texts = list[dict[str, Any]]
Scores = list[tuple[int, float]]


class Study:
    """The model, the texts, and the dense model's logits of each of them."""

    def __init__(self, loaded: LoadedModel, texts: Texts) -> None:
        self.loaded, self.texts = loaded, texts
        self.known: dict[tuple[int, ...], Any] = {}

    def cell(self, slots: int, routing: RoutingPolicy) -> tuple[dict[str, Any], Scores]:
        """The row of a policy with so many slots a layer, and the loss of every text."""
        loaded = self.loaded
        offloaded = offload(loaded, Setup(LRU(), Memory(slots), routing=routing))
        offloaded.recorder.keeps_router = False
        everything = Setup(LRU(), Memory(loaded.geometry.experts))
        with (
            offloaded as model,
            closing(offload(loaded, everything)) as exact,
            stepwise(model, offloaded.empty),
        ):
            dense = DenseLogits(model, exact)

            def remembered(ids: Any) -> Any:
                key = tuple(ids[0].tolist())
                if key not in self.known:
                    self.known[key] = dense(ids)
                return self.known[key]

            scores = beside_dense(model, loaded.tokenizer(), self.texts, remembered)
            offloaded.finish()
        counts, swaps = offloaded.cache_stats.phases[DECODE], offloaded.journal.swaps
        passes = swaps.positions / (loaded.geometry.layers * loaded.geometry.top_k)
        found = {metric: _mean(scores[metric]) for metric in (ABOVE, KL)}
        row = {
            "slots": slots,
            **{name: str(value) for name, value in routing.identity.items()},
            "tokens": passes,
            "swap_rate": swaps.rates["swap_rate"],
            "misses": counts.demand_misses / passes,
            "background_loads": counts.background_loads / passes,
        }
        for metric, (value, stderr) in found.items():
            row |= {metric: value, f"{metric}_stderr": stderr}
        return row, scores[ABOVE]


def _mean(scored: Scores) -> tuple[float, float | None]:
    return mean_and_stderr([value for _, value in scored], [origin for origin, _ in scored])


def _plus_minus(value: float, stderr: float | None) -> str:
    return f"{value:.4f} ± {stderr or 0:.4f}"


def main() -> None:
    """Score every cell and print the table."""
    given = arguments(
        __doc__,
        tiny={"texts": 2, "characters": 40, "slots": [2]},
        text=("", "folder of held-out text; empty: the bundled sentences"),
        texts=(48, "how many texts"),
        characters=(600, "of each text, at most"),
        slots=([2, 3, 4], "a layer, of 8"),
        strength=(0.1, "lambda of cache_prior"),
        out=(Path("results/routing.jsonl"), "append the rows to this file", Path),
    )
    texts: Texts = (
        held_out_texts(given.texts, Path(given.text))
        if given.text
        else read_items("loss", given.texts)
    )
    texts = [each | {"text": each["text"][: given.characters]} for each in texts]
    study, lines = Study(load_model("tiny", dtype="float32"), texts), []

    def add(slots: int, name: str, routing: RoutingPolicy) -> tuple[dict[str, Any], Scores]:
        row, losses = study.cell(slots, routing)
        append(row, given.out)
        moved = (row["swap_rate"], row["misses"], row["background_loads"])
        errors = [_plus_minus(row[each], row[f"{each}_stderr"]) for each in (ABOVE, KL)]
        lines.append((slots, name, *moved, *errors))
        return row, losses

    for slots in given.slots:
        add(slots, "own routing", CachePrior(0.0))
        row, losses = add(slots, f"cache_prior {given.strength}", CachePrior(given.strength))
        plain = CachePrior(given.strength, background=False)
        add(slots, "the same, displaced not loaded", plain)
        _, others = add(slots, "random_swap", RandomSwap(row["swap_rate"]))
        apart = [(origin, a - b) for (origin, a), (_, b) in zip(losses, others, strict=True)]
        print(f"{slots} slots: cache_prior less random_swap, nats/token:", end=" ")
        print(_plus_minus(*_mean(apart)), flush=True)
    head = ("slots", "routing", "swap rate", "misses/token", "background loads/token")
    table((*head, "nats/token above dense", "KL, nats/token"), lines)


if __name__ == "__main__":
    main()
