"""`prefetch=history` is trained on a trace alone, and predicts as it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from traces import random_trace

from moex import api
from moex.cli.build import typed_run
from moex.cli.errors import register_resolvers
from moex.modes.train import run
from moex.predictors import trained
from moex.prefetch.base import Observation
from moex.prefetch.history import History
from moex.testing import check_prefetcher
from moex.trace.record import TraceRecorder
from moex.train.history import HistoryTrainer, Passes
from moex.train.recipe import Recipe
from moex.types import DECODE, Access, Geometry

CONF = Path(__file__).parents[2] / "conf"
SHAPE = Geometry(4, 8, 2, 16, 16, 64)
RECIPE = Recipe(tokens=6000, context=25, batch=4, step=32, width=16, rate=1e-2, horizon=3)


@pytest.fixture(scope="module")
def cyclic():
    """Three requests, in which a pass's experts follow from its first ones."""
    recorder, draw, clock = TraceRecorder(SHAPE), np.random.default_rng(0), 0
    for sequence in range(3):
        first = int(draw.integers(8))
        for position in range(100):
            first += 3
            for layer in range(4):
                experts = ((first + layer) % 8, (first + 2 * layer + 1) % 8)
                recorder.add(sequence, Access(clock, position, layer, DECODE, experts))
                clock += 1
    return recorder.trace({})


def train(folder, trace, *words):
    register_resolvers()
    path = api.write_trace(trace, folder / "seen.parquet")
    named = ("mode=train", "prefetch=history", f"trace={path}", "runner.threads=1", *words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(named))
    return run(typed_run(config), folder)


@pytest.fixture(scope="module")
def fitted(cyclic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    words = [
        f"train.{name}={getattr(RECIPE, name)}"
        for name in ("tokens", "context", "batch", "step", "width", "rate")
    ]
    return train(folder, cyclic, *words), folder / "history.safetensors"


def test_a_trace_alone_trains_a_predictor_that_a_replay_uses(fitted, cyclic):
    report, path = fitted
    assert f"prefetch=history prefetch.checkpoint={path}" in report.bottleneck
    recall = {task["task"]: task["value"] for task in report.tasks}
    assert recall["history_horizon1"] > 0.95 > 0.5 > recall["previous_horizon1"]
    replayed = api.simulate(cyclic, slots=2, prefetch=History(checkpoint=str(path)))
    assert replayed.prefetch_precision > 0.95
    assert replayed.prefetch_issued > 500


def test_the_contract_is_kept_with_a_trained_checkpoint(fitted):
    given = str(fitted[1])
    check_prefetcher(lambda: History(checkpoint=given), SHAPE)
    check_prefetcher(lambda: History(depth=3, mass=0.7, checkpoint=given), SHAPE)


def test_a_run_scores_as_the_network_was_trained(tmp_path):
    trace = random_trace(3, layers=4, tokens=40, sequences=2, prompt=3)
    trainer = HistoryTrainer(trace.geometry, RECIPE, 0)
    for net in trainer.modules:
        torch.nn.init.normal_(net.outer.weight)
    path = tmp_path / "made.safetensors"
    state = trainer.modules.state_dict()
    trained.write(path, "history", state, trace.geometry, None, trainer.about)
    (seen,) = Passes(trace, 40, "x").see(torch.arange(80)[None])
    decoding = seen.decodes[0].nonzero().flatten().tolist()
    with torch.no_grad():
        wanted = [net(given).sigmoid() for net, (given, _) in _pairs(trainer, seen)]
    prefetcher = History(depth=3, width=8, checkpoint=str(path))
    prefetcher.reset(trace.geometry, 0)
    for access in trace.accesses():
        prefetcher.observe(observation := Observation(access))
        found = prefetcher.predict(observation)
        number = access.clock // 4
        if access.layer == 3 or number not in decoding:
            continue
        expected = wanted[access.layer][decoding.index(number)].view(-1, 8)
        assert len(found) == expected.numel()
        for (layer, index), score, _ in found:
            assert score == pytest.approx(
                float(expected[layer - access.layer - 1, index]), abs=1e-5
            )


def _pairs(trainer, seen):
    return zip(trainer.modules, trainer.examples(seen), strict=True)


def test_windows_hold_whole_passes_and_know_where_requests_begin():
    trace = random_trace(3, layers=4, tokens=20, sequences=2, prompt=3).select(slice(2, None))
    passes = Passes(trace, 10, "x")
    assert len(passes.starts) == 39
    (seen,) = passes.see(torch.arange(39)[None])
    assert seen.begins[0].nonzero().flatten().tolist() == [0, 19]
    assert (~seen.decodes[0]).nonzero().flatten().tolist() == [19]
    visits = list(trace.accesses())
    for number, start in enumerate(passes.starts):
        for layer in range(4):
            found = seen.demanded[0, number, layer].nonzero().flatten().tolist()
            assert found == sorted(visits[start + layer].experts)


def test_too_short_a_trace_is_refused_with_a_context_that_works(tmp_path):
    trace = random_trace(3, layers=4, tokens=100, sequences=2)
    with pytest.raises(
        ValueError, match=r"holds 200 whole passes; .* try train.context=10"
    ) as caught:
        train(tmp_path, trace)
    assert "\n" not in str(caught.value)
    assert len(Passes(trace, 10, "x").windows[True]) == 1


def test_a_replay_without_a_checkpoint_is_one_line(cyclic):
    with pytest.raises(FileNotFoundError, match=r"expected prefetch.checkpoint=FILE") as caught:
        api.simulate(cyclic, prefetch=History())
    assert "mode=train prefetch=history trace=FILE" in str(caught.value)


def test_a_checkpoint_of_another_geometry_is_refused(fitted):
    prefetcher = History(checkpoint=str(fitted[1]))
    with pytest.raises(ValueError, match="experts=8; this one has experts=9"):
        prefetcher.reset(SHAPE._replace(experts=9), 0)
    prefetcher.reset(SHAPE._replace(hidden=0, intermediate=0), 0)  # an imported trace's
    assert trained.read("history", SHAPE, None, str(fitted[1]), reads="trace").about["trace"]
