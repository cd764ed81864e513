"""Which experts does the next layer demand, predicted from past routing alone?

A trace is cut in two by sequences (one sequence: in the middle). `history` is trained on the first
half, unless `--checkpoint` names one; the others, which learn while they run, observe it. Then all
predict the next layer's top-k at every decoding visit of the second half. Recall and its standard
error are over sequences; `without loops` leaves out those that the recording calls repetitive.

    python experiments/studies/past_routing/study.py FOLDER_OR_FILE [--sequences 80] [--tiny]

A folder holds arrays (`moex.trace.importers.arrays`); a file is a trace; `tiny` is the bundled one.
`--scores` fills the maps of `expert_map` with the routers' weights where the arrays have them.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from experiments.harness import arguments, emit, table
from moex.api import read_trace
from moex.predictors import trained
from moex.prefetch.base import Observation
from moex.prefetch.eam import EAM
from moex.prefetch.expert_map import ExpertMap
from moex.prefetch.gate import Gate
from moex.prefetch.history import History
from moex.prefetch.markov import Markov
from moex.prefetch.popularity import Popularity
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random
from moex.trace.importers import arrays
from moex.train.fit import train
from moex.train.history import HistoryTrainer, Passes
from moex.train.recipe import Recipe
from moex.types import DECODE

if TYPE_CHECKING:
    from argparse import Namespace

    from moex.prefetch.base import Prefetcher
    from moex.trace.format import Trace

HEAD = ("prefetch", "recall", "standard error", "without loops", "us a visit")


def loops(folder: Path) -> set[int]:
    """The sequences whose text repeats itself, where the recording says so (sequences.jsonl)."""
    path = folder / "sequences.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {number for number, line in enumerate(lines) if json.loads(line).get("repetition")}


def recall(prefetcher: Prefetcher, first: Trace, second: Trace) -> tuple[dict[int, float], float]:
    """Recall of every sequence of the second half, and microseconds of a visit there."""
    prefetcher.reset(first.geometry, 0)
    for access in first.accesses():
        prefetcher.observe(Observation(access))
    right, demanded = defaultdict[int, int](int), defaultdict[int, int](int)
    named: set[tuple[int, int]] = set()
    spent = 0.0
    for access, sequence in zip(second.accesses(), second.sequence.tolist(), strict=True):
        if access.layer and access.phase == DECODE:
            right[sequence] += sum((access.layer, index) in named for index in access.experts)
            demanded[sequence] += len(access.experts)
        started = perf_counter()
        seen = Observation(access, second.lookahead_rows(access.clock))
        prefetcher.observe(seen)
        predictions = prefetcher.predict(seen)
        spent += perf_counter() - started
        named = {prediction.expert for prediction in predictions}
    return {each: right[each] / demanded[each] for each in demanded}, 1e6 * spent / len(second)


def fitted(trace: Trace, name: str, folder: Path, args: Namespace) -> Path:
    """Train `history` on a trace; the path of its checkpoint."""
    recipe = Recipe(tokens=args.passes, context=args.context, batch=32, horizon=1)
    passes, path = Passes(trace, recipe.context, name), folder / "history.safetensors"
    trainer = HistoryTrainer(trace.geometry, recipe, 0)
    train("history", trainer, passes, passes.see, recipe, folder)
    halves = {n: each.half() for n, each in trainer.modules.state_dict().items()}
    trained.write(path, "history", halves, trace.geometry, None, trainer.about)
    return path


def main() -> None:
    """Print a row a predictor."""
    args = arguments(
        __doc__,
        tiny={"passes": 2000, "context": 32},
        _traces=["tiny"],
        sequences=(0, "read from the arrays; 0: all"),
        scores=(False, "the routers' weights, too"),
        passes=(1_000_000, "that history is trained on, again and again"),
        context=(128, "passes in a window of training"),
        checkpoint=(None, "of history, instead of training it", Path),
        out=(None, "append the rows to this file", Path),
    )
    torch.set_num_threads(1)
    for name in args.traces:
        if Path(name).is_dir():
            trace = arrays.read(name, scores=args.scores, sequences=args.sequences or None)
        else:
            trace = read_trace(name)
        sequences, looped = trace.sequence, loops(Path(name))
        middle = int((sequences < (sequences[0] + sequences[-1] + 1) / 2).sum())
        if middle == len(trace):
            middle = len(trace) // 2 // trace.geometry.layers * trace.geometry.layers
        first, second = trace.select(slice(middle)), trace.select(slice(middle, None))
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            path = args.checkpoint or fitted(first, name, Path(folder), args)
            known: dict[str, Prefetcher] = {
                "random": Random(),
                "previous": Previous(),
                "popularity": Popularity(),
                "markov": Markov(),
                "eam": EAM(),
                "expert_map": ExpertMap(),
                "expert_map, 20 nearest": ExpertMap(nearest=20),
                "history": History(checkpoint=str(path)),
            }
            if trace.lookahead is not None:
                known["gate"] = Gate()
            for word, prefetcher in known.items():
                found, us = recall(prefetcher, first, second)
                each = list(found.values())
                error = stdev(each) / len(each) ** 0.5 if len(each) > 1 else None
                plain = [value for sequence, value in found.items() if sequence not in looped]
                rows.append((word, mean(each), error, mean(plain) if plain else None, us))
                if args.out:
                    emit({"trace": name, **dict(zip(HEAD, rows[-1], strict=True))}, args.out)
        count = len(set(sequences[middle:].tolist()))
        print(f"\n{name}: {count} sequences, {len(second)} visits")
        table(HEAD, rows)


if __name__ == "__main__":
    main()
