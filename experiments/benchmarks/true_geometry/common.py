"""What the scripts of this study share: shapes, folders, the setup, and how a row is printed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml
from hydra.utils import instantiate

from experiments.harness import ROOT, emit
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.paths import cache_folder, trace_path
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.prefetch.oracle import Oracle
from moex.prefetch.scored import ScoredPrefetcher
from moex.runner.assemble import Setup
from moex.trace.format import read_trace
from moex.types import DECODE, DEEPEST

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from moex.prefetch.base import Observation
    from moex.quant.base import Scheme
    from moex.types import Geometry, Prediction

CONF = ROOT / "conf" / "model"
SMALL = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512, "num_hidden_layers": 2}


@dataclass
class FromTrace(ScoredPrefetcher):
    """Predicts what a trace recorded of its own model's predictor, for layers in turn.

    It computes nothing, so the predictor's time is not counted. In a prompt it predicts nothing.
    """

    trace: str = ""

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Begin at the trace's beginning."""
        super().reset(geometry, seed)
        trace = read_trace(trace_path(self.trace), "routing")
        if not any(trace.predictions or []):
            raise ValueError(
                f"--routing {self.trace}: holds no predictions; expected a trace that "
                "bundled_model/training/measure.py wrote with --predictions"
            )
        self.said, self.layers = trace.predictions, trace.geometry.layers
        self.experts, self.next = geometry.experts, [0] * geometry.layers

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead that the trace has."""
        access = observation.access
        token, layer = self.next[access.layer], access.layer % self.layers
        self.next[access.layer] += len(observation.chosen)
        if access.phase != DECODE:
            return []
        at = token * self.layers + layer
        ahead = [[0.0] * self.experts for _ in range(DEEPEST)]
        for prefetch in self.said[at % len(self.said)]:
            ahead[prefetch.expert.layer - layer - 1][prefetch.expert.index] = prefetch.score
        return [*self.name(access, ahead[: len(self.next) - access.layer - 1])]


MODEL: dict[str, Any] = {
    "model": "mixtral_8x7b",
    "quant": (None, "of moex's experts and attention: an option of conf/quant, e.g. rtn_4bit"),
    "depth": (1, "layers ahead to prefetch for"),
    "width": (0, "experts prefetched per layer; 0: top-k"),
    "readers": (1, "threads that read"),
    "folder": None,
    "out": None,
}
"""Arguments of both scripts."""


def architecture(options: Namespace) -> dict[str, Any]:
    """The model's shapes, with fewer layers where so many are asked for."""
    config = yaml.safe_load((CONF / f"{options.model}.yaml").read_text())
    shapes = dict(config["architecture"])
    if options.layers:
        shapes["num_hidden_layers"] = options.layers
    if options.tiny:
        shapes.update(SMALL)
    return shapes


def scheme(options: Namespace) -> Scheme | None:
    """The quantization that was asked for, if any."""
    if not options.quant:
        return None
    text = (CONF.parent / "quant" / f"{options.quant}.yaml").read_text()
    return instantiate(yaml.safe_load(text), _convert_="object")


def folder(options: Namespace) -> Path:
    """Where the records are."""
    return options.folder or cache_folder().expanduser() / "true_geometry"


def setup(options: Namespace) -> Setup:
    """LRU within the budget, with or without prefetching."""
    memory = Memory(3) if options.tiny else Memory(None, options.budget)
    memory = replace(memory, reader_threads=options.readers)
    if options.prefetch == "gate":
        return Setup(LRU(), memory, Gate(options.depth, options.width))
    if options.prefetch == "recorded":
        return Setup(LRU(), memory, FromTrace(options.depth, options.width, trace=options.routing))
    named = Oracle(horizon=options.depth) if options.prefetch == "oracle" else NoPrefetch()
    return Setup(LRU(), memory, named)


def say(row: dict[str, Any], options: Namespace) -> None:
    """Print a row with its provenance, and append it to `--out` if there is one."""
    emit({**row, "smoke": options.tiny}, options.out)
