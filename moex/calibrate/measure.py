"""Measures this machine running this model: the costs that a simulation of it needs.

Offloaded runs compute slower than resident ones: loads are handed over by the computing thread, a
link's thread takes turns with it, and weights that have just arrived are cold. So costs are fitted
to an offloaded run: of experts on disk or with a GPU on their own link, of others behind an
emulated one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.calibrate import link_fit
from moex.calibrate.cost_fit import offloaded_costs
from moex.hardware.profile import HardwareProfile
from moex.models import experts_interface
from moex.models.memory_needs import bytes_read, skeleton_bytes
from moex.runner.assemble import Setup, offload
from moex.runner.meter import synchronize
from moex.runs.provenance import machine
from moex.store import row_break_even
from moex.store.layout import Planes
from moex.store.slots import Slots
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moex.runner.assemble import LoadedModel
    from moex.runs.measured import Clocked
    from moex.types import Geometry

ROUNDS = 7
STREAMED, MATRICES = 1 << 29, 8
"""Bytes and number of the matrices whose reading is timed."""


def calibrate(
    loaded: LoadedModel, tokens: int = 64, slots: float = 0.5, folder: Path | None = None
) -> HardwareProfile:
    """Fit `costs_of` this machine; then move neurons from memory and from `folder` (`break_evens`).

    Nothing else should run meanwhile.
    """
    return replace(costs_of(loaded, tokens, slots), break_even=break_evens(loaded, folder))


def costs_of(loaded: LoadedModel, tokens: int = 64, slots: float = 0.5) -> HardwareProfile:
    """Fit the costs of computing to one offloaded run; time one expert, the head and the link.

    The run decodes with LRU, `slots` of the experts and gate lookahead. Experts on disk or beside a
    GPU cross their own link, others an emulated one on which a load takes as long as a layer with
    all experts resident. Latency and bandwidth are fitted to loads of several sizes (`link_fit`),
    of experts in memory to plain copies; on a link that the run used, a load takes as long as the
    run's did. The profile names the model, so that its costs can be scaled to others
    (`HardwareProfile.on`).
    """
    geometry, top_k = loaded.geometry, loaded.geometry.top_k
    prompts = [
        torch.arange(start, start + 32, device=loaded.device)[None] % loaded.model.config.vocab_size
        for start in (16, 113, 210, 307)
    ]
    expert_s, link = _expert_seconds(loaded), None
    here = machine()
    source = f"{loaded.folder.name} on {here}, {torch.get_num_threads()} threads"
    latency_s, speed = link_fit.fit(link_fit.load_seconds(loaded, max(1, top_k // 2)))
    streams = loaded.store.io is not None  # if an expert has several chunks
    plain = HardwareProfile(
        "measured", speed, latency_s, source=source, machine=here, streams=streams
    )
    if loaded.store.io is None and torch.device(loaded.device).type == "cpu":
        speed = geometry.expert_bytes / layer_seconds(loaded)
        link = replace(plain, link_bytes_per_s=speed, link_latency_s=0.0, chunk_bytes=1 << 16)
    costs, predict_s, decoding = offloaded_costs(loaded, Memory(slots), link, prompts, tokens)
    if link is None and decoding.bytes_moved:
        plain = _beside_computing(plain, geometry, decoding)
    visit_s = costs.visit_s + top_k * (costs.expert_s - expert_s)
    profile = costs.profile(plain)
    skeleton = max(skeleton_bytes(loaded.model), loaded.skeleton_bytes)
    return replace(
        profile,
        visit_s=max(0.0, visit_s),
        expert_s=expert_s,
        predict_s=predict_s,
        fitted_on=loaded.folder.name,
        expert_bytes=geometry.expert_bytes,
        **bytes_read(loaded.model, geometry.layers, skeleton),  # type: ignore[arg-type]
        weights_bytes_per_s=weights_rate(loaded),
    )


def weights_rate(loaded: LoadedModel) -> float:
    """Return the bytes/s at which products with one token read weights, in the model's dtype.

    The weights are matrices that no cache holds, half a gigabyte in all.
    """
    width, size = loaded.geometry.hidden, loaded.dtype.itemsize
    rows = STREAMED // (MATRICES * width * size)
    make = partial(torch.rand, device=loaded.device, dtype=loaded.dtype)
    token, weights = make(1, width), [make(rows, width) for _ in range(MATRICES)]
    seconds = _median_of(lambda number: linear(token, weights[number % MATRICES]), 2 * MATRICES)
    return rows * width * size / seconds


def break_evens(loaded: LoadedModel, folder: Path | None) -> dict[str, float] | None:
    """From which share of its rows on an expert of this model is moved whole, by store.

    It compares visits, as the one measured when experts are packed does (`row_break_even.of_pair`).
    None for experts that cannot be kept neuron by neuron, and for quantized ones. Files are written
    to `folder`, which should be on the disk that experts are packed to.
    """
    if loaded.packing is not None:
        return None
    try:
        return {
            pair.name: row_break_even.of_pair(pair)
            for pair in row_break_even.pairs(loaded.layers[0].tensors, folder, loaded.device)
        }
    except ValueError:
        return None


def layer_seconds(loaded: LoadedModel) -> float:
    """Return the seconds of a decoding layer visit, all experts resident: median over passes."""
    prompt = torch.arange(16, 48, device=loaded.device)[None] % loaded.model.config.vocab_size
    run = offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts)))
    with run as model:
        generate(model, [prompt], 48, run.meter)
    # Loads of the cold start are no computing.
    lines = [x["seconds"] - x["stall_s"] for x in run.meter.series if x["phase"] == DECODE]
    return median(lines) / loaded.geometry.layers


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


def _expert_seconds(loaded: LoadedModel) -> float:
    """One expert for one token, of as many as a layer has."""
    if not isinstance(loaded.layout, Planes):
        raise ValueError("mode=calibrate: measures whole experts; try sparsity=none")
    slots = Slots(loaded.layout, loaded.geometry.experts, loaded.device)
    for number, record in enumerate(slots.records):
        loaded.store.read(Expert(0, number), record)
    weights = slots.tensors
    experts = loaded.layers[0].experts
    kind = loaded.dtype
    token = torch.randn(1, loaded.geometry.hidden, device=loaded.device).to(kind)
    return _median_of(
        lambda number: experts_interface.expert_output(
            experts, token, weights[number % len(weights)]
        ),
        48,
    )


def _beside_computing(
    link: HardwareProfile, geometry: Geometry, decoding: Clocked
) -> HardwareProfile:
    """The link with loads as long as decoding's: what they take longer than alone is latency.

    Threads that wake and share the cores delay a load whatever its size; the bandwidth is the
    medium's. Only a link that was faster than alone has another bandwidth.
    """
    load_s = decoding.link_busy_s * geometry.expert_bytes / decoding.bytes_moved
    assert link.link_bytes_per_s is not None
    latency_s = load_s - geometry.expert_bytes / link.link_bytes_per_s
    if latency_s < 0:
        return replace(link, link_latency_s=0.0, link_bytes_per_s=geometry.expert_bytes / load_s)
    return replace(link, link_latency_s=latency_s)
