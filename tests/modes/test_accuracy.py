"""What is in an accuracy key, and how texts are fed, follow from whether residency matters."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir

from moex.cli.build import typed_run
from moex.cli.errors import CONF, register_resolvers
from moex.modes.accuracy import _key, accuracy, check_tasks
from moex.runner.assemble import load_model
from moex.runs.report import Report
from moex.runs.run_id import key_of


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", store="ram")


@pytest.fixture
def configured():
    register_resolvers()

    def make(*words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return typed_run(compose("config", ["mode=eval", "eval=loss", *words]))

    return make


@pytest.mark.parametrize(
    "words",
    ["memory.slots=3", "cache=lfu", "prefetch=none", "prefetch.governor=off", "eval.cold=false"],
)
def test_what_decides_residency_is_in_the_key_only_where_it_matters(loaded, configured, words):
    def changes(*common: str) -> bool:
        keys = [key_of(_key(configured(*common, *more), loaded, None)) for more in ((), (words,))]
        return keys[0] != keys[1]

    for lossy in ("routing=cache_prior", "miss=skip", "miss=slices"):
        assert changes(lossy), lossy
    for exact in ("routing=none", "routing=fewer"):
        assert not changes(exact), exact


def test_a_hyper_parameter_of_routing_and_its_files_are_in_the_key(loaded, configured):
    words = (
        ["routing=none"],
        ["routing=fewer"],
        ["routing=fewer", "routing.ratio=0.3"],
        ["routing=fewer", "eval.stepwise=always"],
        ["routing=buddy"],
    )
    keys = [_key(configured(*each), loaded, None) for each in words]
    assert len({key_of(key) for key in keys}) == len(words)
    assert "tiny" in keys[-1]["routing"]["contents"], "the digest of the trace that it counts"


def test_a_single_pass_is_refused_before_a_model_is_loaded(configured):
    for lossy in ("routing=cache_prior", "miss=skip"):
        with pytest.raises(ValueError, match=r"^eval.stepwise=never: .*; try eval.stepwise=auto$"):
            check_tasks(configured(lossy, "eval.stepwise=never"))
    check_tasks(configured("routing=fewer", "eval.stepwise=never"))


def test_rows_are_kept_with_the_swap_rate_and_read_again(loaded, configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = configured("routing=random_swap", "routing.rate=0.2", "eval.limit=2", "memory.slots=2")
    first, again = Report(), Report()
    accuracy(first, run, loaded)
    kept = tmp_path / "results" / "accuracy" / f"{first.accuracy_key}.json"
    metrics = {"nats_per_token", "nats_above_dense", "kl_per_token"}
    assert {row["metric"] for row in first.tasks} == metrics
    assert first.swap_rate == pytest.approx(0.2, abs=0.05)
    found = json.loads(kept.read_text())
    found["rows"][0]["value"] = 42.0
    kept.write_text(json.dumps(found))
    accuracy(again, run, loaded)
    assert again.tasks[0]["value"] == 42.0
    assert again.swap_rate == first.swap_rate


@pytest.mark.study
def test_slices_are_scored_through_their_own_cache(configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["quant=sliced", "eval.limit=2", "memory.slots=2", "miss=low_bits"]
    run = configured(*words, "miss.high=0", "miss.low=1")
    sliced = load_model("tiny", store="ram", quant=run.quant)
    keys = {key_of(_key(configured(*words, *more), sliced, None)) for more in ([], ["miss.low=1"])}
    assert len(keys) == 2
    found = {}
    for name, each in {"few": run, "all": configured(*words, "miss.high=1", "miss.low=1")}.items():
        report = Report()
        accuracy(report, each, sliced)
        kl = [row["value"] for row in report.tasks if row["metric"] == "kl_per_token"]
        found[name] = kl[0], report.bits_demanded
    assert found["all"][0] == 0.0
    assert found["few"][0] > 1e-4
    assert found["few"][1] < found["all"][1] == pytest.approx(sliced.bits_per_weight)
