"""Every word in conf/ composes, and every part that it names can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from moex.cli.build import typed_run
from moex.cli.errors import register_resolvers
from moex.cli.keys import PRESETS

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.glob("*/*.yaml"))
    if "local" not in path.parts
]


@pytest.fixture(scope="module", autouse=True)
def hydra_here():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_an_option_composes_and_builds(group, option):
    override = [f"{group}={option}"]
    lacking = {"hf": "model.name", "jsonl": "workload.path", "hub": "workload.dataset"}
    if option in lacking:
        override.append(f"{lacking[option]}=somewhere")
    config = compose("config", overrides=override)
    if group not in PRESETS and "_target_" in config[group]:
        assert typed_run(config).make(group) is not None


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_an_option_says_what_it_is_and_how_to_type_it(group, option):
    text = (CONF / group / f"{option}.yaml").read_text()
    assert text.startswith("# ")
    assert "python run.py" in text.split("_target_")[0]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_yaml_and_constructor_name_the_same_fields(group, option):
    import dataclasses
    import importlib

    node = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    target = (node or {}).get("_target_")
    if not target:
        pytest.skip("names no class")
    module, _, name = target.rpartition(".")
    fields = {f.name for f in dataclasses.fields(getattr(importlib.import_module(module), name))}
    assert set(node) - {"_target_"} <= fields


@pytest.mark.parametrize(
    ("given", "on"), [("on", True), ("off", False), ("true", True), ("false", False), (None, True)]
)
@pytest.mark.parametrize("prefetch", ["gate", "none", "corm"])
def test_every_prefetcher_has_a_governor_that_is_on_or_off(prefetch, given, on):
    words = [f"prefetch={prefetch}"] + [f"prefetch.governor={given}"] * (given is not None)
    run = typed_run(compose("config", overrides=words))
    assert run.governor is on
    assert not hasattr(run.prefetch, "governor")


def test_presets_of_prefetch_studies_switch_the_governor_off():
    config = compose("config", overrides=["experiment=prefetch_value"])
    assert typed_run(config).governor is False
