"""What does one code in two slices cost, and what do few bits on a miss save?

    python experiments/studies/slices/study.py codes --text FOLDER [--texts 48] [--tiny]
    python experiments/studies/slices/study.py cache --text FOLDER [--texts 12] [--tiny]

`codes`: experts in the whole 4-bit code of `quant=sliced` and in its 2-bit high slice alone,
against `rtn` at 4 and 2 bits; loss above the model in float32, one pass a text. `cache`: experts in
that code, fed token by token through the live cache (LRU, no prefetcher, every text from cold);
loss above the same model with all experts whole. Every method has the bytes of as many whole
experts; the control fetches high slices only, of which those bytes hold more. Without --text the
bundled sentences are scored, which support no claim.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness import append, arguments, table
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.evals.dense import DenseLogits
from moex.evals.items import read_items
from moex.evals.loss import ABOVE, KL, beside_dense, held_out_texts, mean_and_stderr
from moex.evals.stepwise import stepwise
from moex.miss.fetch import Fetch
from moex.miss.low_bits import LowBits
from moex.miss.slices import Slices
from moex.quant.mixed import Mixed
from moex.quant.rtn import RTN
from moex.quant.sliced import Sliced
from moex.runner.assemble import Setup, load_model, offload
from moex.runs.measured import bits_demanded
from moex.types import DECODE

if TYPE_CHECKING:
    from moex.miss.base import MissHandler
    from moex.quant.base import Quantizer
    from moex.runner.assemble import LoadedModel

Texts = list[dict[str, Any]]


@dataclass
class HighSlice(Sliced):
    """The high slice alone, as a quantizer of its own."""

    refining = frozenset()

    def tensors(self, shape: Any) -> Any:
        """Return the tensors of the high slice."""
        return {k: v for k, v in super().tensors(shape).items() if not k.startswith("low")}

    def pack(self, weight: Any) -> Any:
        """Quantize a weight, and keep the high slice."""
        return {k: v for k, v in super().pack(weight).items() if not k.startswith("low")}


CODES = {
    "sliced, both slices": Sliced(4, 32),
    "rtn, 4 bits": RTN(4, 32, 16),
    "rtn_4bit": RTN(4, 64),
    "sliced, the high slice alone": HighSlice(4, 32),
    "rtn, 2 bits": RTN(2, 32, 16),
    "rtn_2bit": RTN(2, 16),
}
METHODS = {
    "fetch": Fetch(),
    "low_bits .6 .9": LowBits(),
    "low_bits .6 1": LowBits(0.6, 1.0),
    "slices, whole .5": Slices(),
    "slices, whole 0": Slices(whole=0.0),
}


def load(quantizer: Quantizer | None) -> LoadedModel:
    """The bundled model with only its experts quantized, in float32, which every machine has."""
    scheme = None if quantizer is None else Mixed(gate_up=quantizer, down=quantizer)
    return load_model("tiny", dtype="float32", quant=scheme)


def mean(scores: dict[str, list[tuple[int, float]]]) -> dict[str, float]:
    """The mean of every metric over texts, and its standard error."""
    found = {}
    for metric in (ABOVE, KL):
        scored = scores[metric]
        value, stderr = mean_and_stderr([v for _, v in scored], [origin for origin, _ in scored])
        found |= {metric: value, f"{metric}_stderr": stderr or 0.0}
    return found


def code(quantizer: Quantizer, texts: Texts, dense: dict[tuple[int, ...], Any]) -> dict[str, Any]:
    """The loss of all texts with experts in a code; `dense` has the logits in float32."""
    loaded = load(quantizer)
    setup = Setup(LRU(), Memory(loaded.geometry.experts))
    with closing(loaded.store), offload(loaded, setup) as model:
        given = model, loaded.tokenizer(), texts
        scores = beside_dense(*given, lambda ids: dense[tuple(ids[0].tolist())])
    shape = (2 * loaded.geometry.intermediate, loaded.geometry.hidden)
    bits = 8 * quantizer.nbytes(shape) / (shape[0] * shape[1])
    return {"bits_per_weight": bits, "expert_bytes": loaded.geometry.expert_bytes} | mean(scores)


def logits_of(texts: Texts) -> dict[tuple[int, ...], Any]:
    """The logits of every text in float32, by its tokens."""
    loaded, known = load(None), {}
    with closing(loaded.store), offload(loaded, Setup(LRU(), Memory(8))) as model:

        def remembered(ids: Any) -> Any:
            known[tuple(ids[0].tolist())] = logits = model(ids).logits[0].detach()
            return logits

        beside_dense(model, loaded.tokenizer(), texts, remembered)
    return known


class Cells:
    """A model, the texts, and the logits of each of them with all experts whole."""

    def __init__(self, loaded: LoadedModel, texts: Texts) -> None:
        self.loaded, self.texts = loaded, texts
        self.known: dict[tuple[int, ...], Any] = {}

    def cell(
        self, slots: int, miss: MissHandler, other: LoadedModel | None = None
    ) -> dict[str, Any]:
        """The row of a method; `other` is run in the place of the own model, after it."""
        loaded = other or self.loaded
        offloaded = offload(loaded, Setup(LRU(), Memory(slots), miss=miss))
        everything = Setup(LRU(), Memory(loaded.geometry.experts))
        with (
            offloaded as model,
            closing(offload(self.loaded, everything)) as exact,
            stepwise(model, offloaded.empty),
        ):
            dense = DenseLogits(model, exact)

            def remembered(ids: Any) -> Any:
                key = tuple(ids[0].tolist())
                if key not in self.known:
                    assert other is None, "the logits are those of the own model"
                    self.known[key] = dense(ids)
                return self.known[key]

            scores = beside_dense(model, loaded.tokenizer(), self.texts, remembered)
            offloaded.finish()
        counts, geometry = offloaded.cache_stats.phases[DECODE], loaded.geometry
        tokens = counts.visits / geometry.layers
        return {
            "residents": offloaded.cache.slots,
            "capacity_bytes": offloaded.slots.bytes,
            "tokens": tokens,
            "misses": counts.demand_misses / tokens,
            "refined": counts.partial_hits / tokens,
            "skipped": counts.skipped / tokens,
            "bytes": counts.bytes_demand / tokens,
            "bits_demanded": bits_demanded(counts, geometry),
        } | mean(scores)


def high_only(slots: int, whole: LoadedModel, high: LoadedModel) -> int:
    """How many high slices a layer take the bytes of `slots` whole experts."""
    geometry, staging = whole.geometry, 2 * whole.geometry.top_k
    budget = (slots * geometry.layers + staging) * geometry.expert_bytes
    fitting = budget // high.geometry.expert_bytes - staging
    return min(geometry.experts, fitting // geometry.layers)


def plus_minus(row: dict[str, Any]) -> list[str]:
    """Loss and divergence with their errors."""
    return [f"{row[each]:.4f} ± {row[f'{each}_stderr']:.4f}" for each in (ABOVE, KL)]


def codes(texts: Texts, out: Path) -> None:
    """Score every code and print the table."""
    dense, lines = logits_of(texts), []
    for name, quantizer in CODES.items():
        row = {"code": name} | code(quantizer, texts, dense)
        append(row, out)
        lines.append((name, row["bits_per_weight"], row["expert_bytes"], *plus_minus(row)))
    head = ("experts in", "bits/weight", "bytes/expert")
    table((*head, "nats/token above float32", "KL, nats/token"), lines)


def cache(texts: Texts, slots: list[int], out: Path) -> None:
    """Score every method at every capacity and print the table."""
    cells, high, lines = Cells(load(Sliced()), texts), load(HighSlice()), []
    for count in slots:
        fitting = high_only(count, cells.loaded, high)
        ways: dict[str, tuple[Any, ...]]
        ways = {name: (count, miss) for name, miss in METHODS.items()}
        for name, way in (ways | {"high slices only": (fitting, Fetch(), high)}).items():
            row = cells.cell(*way)
            append({"slots": count, "method": name} | row, out)
            counted = [row[each] for each in ("residents", "misses", "refined", "skipped")]
            moved = (row["bytes"] / 1e3, row["bits_demanded"])
            lines.append((count, name, *counted, *moved, *plus_minus(row)))
    head = ("slots", "method", "residents", "misses/token", "low slices alone/token")
    more = ("skipped/token", "KB/token", "bits demanded", "nats/token above all whole")
    table((*head, *more, "KL, nats/token"), lines)


def main() -> None:
    """Run one part."""
    given = arguments(
        __doc__,
        "codes",
        "cache",
        tiny={"texts": 2, "characters": 40, "slots": [3]},
        text=("", "folder of held-out text; empty: the bundled sentences"),
        texts=(12, "how many texts"),
        characters=(400, "of each text, at most"),
        slots=([2, 3, 4], "whole experts a layer, of 8, whose bytes there are"),
        out=(Path("results/slices.jsonl"), "append the rows to this file", Path),
    )
    texts: Texts = (
        held_out_texts(given.texts, Path(given.text))
        if given.text
        else read_items("loss", given.texts)
    )
    texts = [each | {"text": each["text"][: given.characters]} for each in texts]
    if given.part == "codes":
        codes(texts, given.out)
    else:
        cache(texts, given.slots, given.out)


if __name__ == "__main__":
    main()
