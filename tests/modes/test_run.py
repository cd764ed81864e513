"""Modes, and all below them, are given typed parts: only the command line knows a configuration."""

from __future__ import annotations

import ast
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cli.build import typed_run
from moex.cli.errors import CONF, register_resolvers
from moex.hardware.profile import HardwareProfile
from moex.miss.fetch import Fetch
from moex.modes import simulate
from moex.modes.run import Run, Top
from moex.prefetch.none import NoPrefetch

MOEX = Path(__file__).parents[2] / "moex"
BELOW = sorted(
    path for path in MOEX.rglob("*.py") if path.relative_to(MOEX).parts[0] not in ("cli", "sweeps")
)


def imported(tree: ast.AST) -> set[str]:
    """The packages that a module imports, wherever it does."""
    nodes = [*ast.walk(tree)]
    names = [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def parameters(tree: ast.AST) -> set[str]:
    """The names of all parameters in a module."""
    return {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def test_nothing_below_the_command_line_knows_a_configuration():
    trees = {path: ast.parse(path.read_text()) for path in BELOW}
    assert len(trees) > 100
    assert not [p for p, tree in trees.items() if {"omegaconf", "hydra"} & imported(tree)]
    modes = {path: tree for path, tree in trees.items() if path.parent.name == "modes"}
    assert not [path for path, tree in modes.items() if "config" in parameters(tree)]


@pytest.fixture
def configured():
    register_resolvers()

    def make(*words: str) -> Run:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return typed_run(compose("config", [*words]))

    return make


def test_a_part_is_made_once_and_a_missing_value_refused_where_it_is_used(configured):
    run = configured("workload=jsonl", "model=hf", "cache=lfu", "cache.decay=0.5")
    assert run.cache is run.cache
    assert run.cache.decay == 0.5
    assert run.memory == Memory()
    for name, key in (("workload", "workload.path"), ("model", "model.name")):
        with pytest.raises(ValueError, match=f"{key}: has no value; expected {key}=VALUE on the"):
            getattr(run, name)


@pytest.mark.parametrize(
    ("words", "selects"),
    [([], False), (["sparsity=random"], True), (["sparsity=random", "sparsity.mode=exact"], False)],
)
def test_neurons_are_selected_unless_the_selector_is_exact(configured, words, selects):
    run = configured(*words)
    assert run.selects is selects
    assert (run.selector is not None) is selects
    assert (run.sparsity is not None) is bool(words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cache._target_=nope.LRU"], "cache._target_=nope.LRU: No module named 'nope'"),
        (["cache._target_=moex.cache.lru.LUR"], "has no attribute 'LUR'"),
        (["quant=only", "~quant.quantizer"], "quant: .*missing 1 required .*'quantizer'"),
    ],
)
def test_a_part_that_cannot_be_made_is_one_line(configured, words, line):
    run = configured(*words)
    with pytest.raises(ValueError, match=line):
        getattr(run, words[0].partition("=")[0].partition(".")[0])


def test_a_mode_runs_without_a_configuration(tmp_path):
    parts = {"cache": LRU(), "memory": Memory(2), "prefetch": NoPrefetch(), "miss": Fetch()}
    parts |= {"hardware": HardwareProfile(), "quant": None, "routing": None}
    none = {"quant": {"name": "none"}, "sparsity": {"name": "none"}, "workload": {}}
    top = asdict(Top(bottleneck=False, smoke=True))
    report = simulate.run(Run(top | none, parts.__getitem__), tmp_path)
    assert report.requests == report.demand_misses + report.resident_hits > 0
    assert (tmp_path / "counts.json").is_file()
