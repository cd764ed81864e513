"""Every published method that has a preset runs, with the parts that it names."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from typed import corrected, run

from moex.cli.errors import CONF, one_line, register_resolvers
from moex.cli.keys import options
from moex.cli.renamed import NEEDS

PARTS = ("policy", "prefetcher", "miss", "routing", "sparsity", "quant", "pool", "lossy")
REPLAYED = {  # from any trace
    "mixtral_offloading": "lru gate fetch none none attn4_expert2 layer quant",
    "moe_infinity": "eam eam fetch none none none global",
    "fiddler": "static none host none none none global",
    "finemoe": "lfu expert_map fetch none none none layer",
    "hobbit": "lru gate low_bits none none sliced layer miss quant",
    "slicemoe": "lru none slices none none sliced layer miss quant",
    "specmd_like": "least_stale gate fetch none none none global",
}
REROUTED = {  # from a trace with router rows
    "adapmoe": "lru gate fetch sensitivity none none layer routing",
    "cache_prior": "lru none fetch cache_prior none none layer routing",
    "buddymoe": "lru gate fetch buddy none none layer routing",
}
LIVE = {  # trained predictors read hidden states; accelerate is no cache of ours
    "promoe": "lru mlp fetch none none none layer",
    "floe": "lru mlp fetch none up_reuse none layer sparsity",
    "corm": "lru corm fetch none corm none layer sparsity",
    "accelerate": "  fetch none none none None",
}


@pytest.fixture(autouse=True)
def hydra_here(monkeypatch):
    register_resolvers()
    monkeypatch.chdir(CONF.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


def row(folder, *words):
    run(folder, "eval=none", *words)
    return json.loads((folder / "run" / "result.json").read_text())


def parts(found):
    named = [found[name] for name in PARTS[:-1]] + found["lossy"]
    return " ".join(map(str, named))


def test_every_preset_is_run_here():
    assert {path.stem for path in options("baseline")} == {*REPLAYED, *REROUTED, *LIVE}


@pytest.mark.study
@pytest.mark.parametrize("name", REPLAYED)
def test_a_preset_replays_with_the_parts_that_it_names(name, tmp_path):
    found = row(tmp_path, "mode=simulate", f"baseline={name}")
    assert parts(found) == REPLAYED[name]
    assert found["requests"]
    assert found["governor"] in ("off", None)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A trace with router rows, of a model that routes as it always does."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CONF.parent)
        register_resolvers()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            run(folder, "eval=none", "prefetch=gate", "routing=cache_prior", "routing.strength=0")
    return folder / "run" / "trace.parquet"


@pytest.mark.study
@pytest.mark.parametrize("name", REROUTED)
def test_a_preset_that_reroutes_replays_router_rows(name, recorded, tmp_path):
    found = row(tmp_path, "mode=simulate", f"baseline={name}", f"trace={recorded}")
    assert parts(found) == REROUTED[name]
    assert found["off_policy"]


@pytest.mark.study
@pytest.mark.parametrize("name", LIVE)
def test_a_preset_runs_live_with_the_parts_that_it_names(name, tmp_path):
    found = row(tmp_path, f"baseline={name}")
    assert parts(found) == LIVE[name]
    assert found["tokens_per_second"] > 0
    assert found["runner"] == ("accelerate" if name == "accelerate" else "moex")


def test_what_is_typed_beside_a_preset_wins():
    config = compose("config", overrides=["baseline=mixtral_offloading", "quant=none"])
    assert "_target_" not in config.quant
    config = compose("config", overrides=["baseline=moe_infinity", "prefetch.depth=1"])
    assert (config.prefetch.depth, config.memory.pool) == (1, "global")
    config = compose("config", overrides=["experiment=routing", "baseline=specmd_like"])
    assert "NoPrefetch" in config.prefetch._target_, "a study's own parts win over a baseline's"


@pytest.mark.study
@pytest.mark.parametrize("word", NEEDS)
def test_a_method_that_lacks_a_part_says_which(word, tmp_path):
    with pytest.raises(Exception, match="not find") as caught:
        run(tmp_path, "mode=simulate", word)
    line = one_line(caught.value)
    assert line.startswith(f"{word}: not available, it needs ")
    assert "\n" not in line
    run(tmp_path, *corrected(["mode=simulate", word], line))
    assert (tmp_path / "run" / "result.json").is_file()
