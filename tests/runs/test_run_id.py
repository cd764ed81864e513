"""A run's name changes with everything that the run reads, and with nothing that it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from moex.cli.errors import register_resolvers
from moex.paths import ASSETS
from moex.predictors import trained
from moex.runs.run_id import contents, folder_digest, run_id
from moex.types import Geometry

ROOT = Path(__file__).parents[2]
SHAPE = Geometry(layers=3, experts=4, top_k=2, hidden=8, intermediate=6, expert_bytes=288)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    return folder


def config(*words):
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(words))


def name(*words):
    return run_id(OmegaConf.to_container(config(*words), resolve=True))


def train(path, kind, model, number):
    return trained.write(path, kind, {"a": torch.full((3,), number)}, SHAPE, model, {})


@pytest.mark.parametrize("place", ["beside the model", "in the cache folder"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [("mlp", "prefetch=mlp"), ("corm", "sparsity=corm"), ("mlp", "prefetch=corm")],
)
@pytest.mark.parametrize("mode", ["live", "verify"])
def test_a_part_trained_again_in_its_usual_place_is_another_run(kind, part, place, mode, model):
    beside = model / "predictors" / f"{kind}.safetensors"
    path = beside if place.startswith("beside") else trained.own_path(kind, model)
    words = [f"mode={mode}", "model=hf", f"model.name={model}", part]
    names = [name(*words)]
    for number in (1.0, 2.0):
        train(path, kind, model, number)
        names.append(name(*words))
    assert len(set(names)) == 3
    assert name(*words) == names[-1]
    others = [*words[:3], "prefetch=gate", "sparsity=none"]
    before = name(*others)
    train(path, kind, model, 3.0)
    assert name(*others) == before


def test_the_checkpoint_that_was_named_is_the_one_that_counts(model, tmp_path):
    words = ["model=hf", f"model.name={model}", "prefetch=mlp"]
    words += [f"prefetch.checkpoint={tmp_path / 'mine'}"]
    train(tmp_path / "mine", "mlp", model, 1.0)
    before = name(*words)
    train(model / "predictors" / "mlp.safetensors", "mlp", model, 2.0)
    assert name(*words) == before
    train(tmp_path / "mine", "mlp", model, 2.0)
    assert name(*words) != before


def test_training_reads_its_text_and_not_what_it_wrote(model, tmp_path):
    text, out = tmp_path / "text", tmp_path / "out"
    (text / "more").mkdir(parents=True)
    (text / "more" / "a.txt").write_text("one two")
    words = ["mode=train", "model=hf", f"model.name={model}", "prefetch=mlp"]
    words += [f"train.text={text}", f"train.out={out}"]
    before = name(*words)
    train(out, "mlp", model, 1.0)
    train(trained.own_path("mlp", model), "mlp", model, 1.0)
    assert name(*words) == before
    (text / "more" / "a.txt").write_text("one six")
    assert name(*words) != before


@pytest.mark.parametrize(
    "words",
    [
        ["mode=simulate", "trace=FILE"],
        ["workload.routing=FILE"],
        ["workload=jsonl", "workload.path=FILE"],
        ["cache=static", "cache.counts=FILE"],
        ["sparsity=freq", "sparsity.counts=FILE"],
        ["memory.hot=FILE"],
        ["workload=hub", "workload.dataset=FOLDER"],
        ["eval=heldout", "eval.text_dir=FOLDER"],
        ["eval=published", "eval.data_dir=FOLDER"],
        ["model=hf", "model.name=FOLDER"],
        ["+hardware=own", "hydra.searchpath=[FOLDER]"],
    ],
    ids=" ".join,
)
def test_what_is_in_a_file_counts_and_not_only_its_name(words, tmp_path):
    file = tmp_path / "folder" / "config.json"
    profile = tmp_path / "folder" / "hardware" / "own.yaml"
    profile.parent.mkdir(parents=True)
    given = [word.replace("FILE", str(file)).replace("FOLDER", str(file.parent)) for word in words]
    if "searchpath" in words[-1]:  # a profile's numbers are settings like all others
        given = ["hardware=own", given[1]]
    names = []
    for content in ("1", "2"):
        file.write_text(f"[{content}]")
        profile.write_text(f"_target_: moex.hardware.profile.HardwareProfile\nvisit_s: {content}\n")
        names.append(name(*given))
    assert names[0] != names[1]


def test_the_folder_that_holds_packed_experts_is_part_of_a_run(tmp_path):
    assert name(f"cache_dir={tmp_path}") != name()


def test_a_word_that_is_a_folders_name_by_chance_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = name()
    for word in ("moex", "short", "tiny", "layer"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "file").write_text("x")
    assert name() == before


def test_a_copied_model_is_the_same_by_content(tmp_path):
    for folder in ("one", "two"):
        shutil.copytree(ASSETS / "tiny", tmp_path / folder)
    read = [
        contents(
            OmegaConf.to_container(OmegaConf.masked_copy(config(*words), ["model", "prefetch"]))
        )
        for words in (
            ["prefetch=mlp"],
            *(["prefetch=mlp", "model=hf", f"model.name={tmp_path / f}"] for f in ("one", "two")),
        )
    ]
    assert set(read[0]) == {"model", "mlp checkpoint"}
    assert read[0] == read[1] == read[2]


def test_naming_a_run_of_trained_parts_needs_no_torch():
    code = (
        "import sys, json; from moex.runs.run_id import run_id\n"
        "print(run_id(json.loads(sys.argv[1])), 'torch' in sys.modules, "
        "'safetensors' in sys.modules)"
    )
    parts = config("prefetch=corm")
    settings = OmegaConf.to_container(parts, resolve=True)
    command = [sys.executable, "-c", code, json.dumps(settings)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.split() == [run_id(settings), "False", "False"]


def test_a_timeline_is_no_part_of_what_a_run_is():
    shown, hidden = ({"runner": {"name": "moex", "timeline": flag}} for flag in (True, False))
    assert run_id(shown) == run_id(hidden) == run_id({"runner": {"name": "moex"}})
    assert run_id(shown) != run_id({"runner": {"name": "moex", "threads": 1}})


@pytest.mark.parametrize("place", [0, 4_000_000 * 8 // 17, 3_999_999])
def test_a_byte_at_either_end_or_in_a_page_between_makes_other_weights(tmp_path, place):
    data = bytearray(4_000_000)
    (tmp_path / "model.safetensors").write_bytes(data)
    before = folder_digest(tmp_path)
    data[place] = 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert folder_digest(tmp_path) != before


def test_changed_weights_are_others_whatever_their_time_stamp(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    before, times = folder_digest(tmp_path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert folder_digest(tmp_path) != before


def test_files_in_lists_count_and_a_folder_is_of_the_names_that_are_asked_for(tmp_path):
    for name in ("config.json", "other.json"):
        (tmp_path / name).write_text("{}")
    assert str(tmp_path / "config.json") in contents({"x": {"y": [str(tmp_path / "config.json")]}})
    before = folder_digest(tmp_path, ("config.json",))
    (tmp_path / "other.json").write_text("[]")
    assert folder_digest(tmp_path, ("config.json",)) == before
    (tmp_path / "config.json").write_text("[]")
    assert folder_digest(tmp_path, ("config.json",)) != before
