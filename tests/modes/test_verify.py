"""mode=verify grades the configuration; a live run of the same arithmetic shows the grade."""

from __future__ import annotations

import json
import sys
from importlib import invalidate_caches

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from moex.cli.build import typed_run
from moex.cli.errors import CONF, register_resolvers
from moex.models import checkpoint
from moex.modes import eval, live, verify

FIELDS = ("equality", "max_logit_diff", "kl", "first_diverging_token", "first_diverging_layer")
EQUAL = ("bit-equal", 0.0, 0.0, None, None)


@pytest.fixture
def row(mixtral, tmp_path, monkeypatch):
    """The row of a mode run with some words, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    common = ("model=hf", f"model.name={mixtral}", "workload.new_tokens=4", "workload.limit=3")
    once = ("workload.warmup=0", "workload.repeats=1", "eval=none", "runner.threads=1")

    def start(mode, *words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [*common, *once, *words])
        return mode.run(typed_run(config), tmp_path)

    return start


def grade(report) -> tuple:
    return tuple(getattr(report, name) for name in FIELDS)


def test_a_live_row_shows_the_grade_of_its_arithmetic_once_it_was_verified(row, tmp_path):
    words = ("memory.store=ram", "workload.batch_size=2")
    assert grade(row(live, *words)) == (None,) * 5
    verified = row(verify, "cache=arc", "prefetch=oracle", "memory.pool=global", *words)
    assert grade(verified) == EQUAL
    assert (verified.link, verified.oracle, verified.slots) == ("copy", True, 4)
    assert grade(row(live, "cache=fifo", *words)) == EQUAL
    for other in ("memory.store=disk", "workload.new_tokens=5", "workload.sampling=sample"):
        assert grade(row(live, *words, other)) == (None,) * 5
    (kept,) = (tmp_path / "results" / "verify").iterdir()
    assert json.loads(kept.read_text())["row"] == dict(zip(FIELDS, EQUAL, strict=True))


@pytest.fixture
def hot(mixtral, tmp_path):
    """A file of counts in which the neurons from `first` on are the hottest; how to write it."""
    config = json.loads((mixtral / "config.json").read_text())
    shape = [config[f"num_{name}"] for name in ("hidden_layers", "local_experts")]

    def write(first):
        counts = np.zeros((*shape, config["intermediate_size"]), np.uint32)
        counts[..., first:] = 1
        np.save(tmp_path / "neurons.npy", counts)

    write(0)
    return write, ("sparsity=freq", f"sparsity.counts={tmp_path / 'neurons.npy'}")


def test_a_grade_is_that_of_the_checkpoint_s_content_not_of_its_name(row, hot):
    write, words = hot
    words = (*words, "memory.store=ram")
    found = row(verify, *words)
    assert found.equality == "approximate"
    assert grade(row(live, *words)) == grade(found)
    write(4)
    assert grade(row(live, *words)) == (None,) * 5


def test_the_accuracy_key_is_that_of_the_checkpoint_s_content_not_of_its_name(row, hot):
    write, words = hot
    words = (*words, "memory.store=ram", "eval.tasks=[moex_swap]", "smoke=true")
    first = row(eval, *words)
    write(4)
    assert row(eval, *words).accuracy_key != first.accuracy_key
    write(0)
    assert row(eval, *words).accuracy_key == first.accuracy_key


OWN = """
from dataclasses import dataclass
from moex.sparsity.fixed import Fixed
import torch

@dataclass
class Ordered(Fixed):
    def scores(self, geometry):
        order = torch.arange(float(geometry.intermediate))
        return {sign} * order.expand(geometry.layers, geometry.experts, -1)
"""


def test_keys_are_those_of_a_class_s_text_not_of_its_name(row, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(sign):
        (tmp_path / "my_selectors.py").write_text(OWN.format(sign=sign))
        monkeypatch.delitem(sys.modules, "my_selectors", raising=False)
        invalidate_caches()

    own = ("sparsity=random", "sparsity._target_=my_selectors.Ordered", "~sparsity.seed")
    words = (*own, "memory.store=ram", "eval.tasks=[moex_swap]", "smoke=true")
    write(1)
    found, key = row(verify, *words), row(eval, *words).accuracy_key
    assert grade(row(live, *words, "eval.tasks=[]")) == grade(found)
    write(-1)
    assert grade(row(live, *words, "eval.tasks=[]")) == (None,) * 5
    assert row(eval, *words).accuracy_key != key


@pytest.mark.parametrize("words", [["hardware=t4"], ["workload.prompt_tokens=null"]], ids=str)
def test_disk_emulated_links_and_own_lengths_are_verified(row, words):
    words = [*words, "memory.store=disk", "workload.sampling=sample", "workload.top_p=0.9"]
    assert grade(row(verify, *words)) == EQUAL


def test_what_is_wrong_is_called_approximate(row, monkeypatch):
    fill = checkpoint.fill

    def spoilt(model, folder, put, *rest, **named):
        def wrong(expert, tensors):
            spoil = 1.5 if expert.layer == 1 else 1.0
            put(expert, {name: spoil * tensor for name, tensor in tensors.items()})

        fill(model, folder, wrong, *rest, **named)

    monkeypatch.setattr(checkpoint, "fill", spoilt)
    report = row(verify, "memory.store=ram")
    assert report.equality in ("token-equal", "approximate")
    assert report.first_diverging_layer == 1
    assert report.max_logit_diff > 0
    assert report.kl > 0


def test_baselines_are_not_verified(row):
    with pytest.raises(ValueError, match="runner=stock: mode=verify compares moex with stock"):
        row(verify, "runner=stock")
