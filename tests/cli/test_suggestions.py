"""Words as other tools have them: the line says what they are called here, and that works."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from typed import run, suggested

from moex.cli.errors import CONF, nearest, one_line, register_resolvers
from moex.cli.keys import group_help, groups
from moex.cli.overrides import asked_group, implied, refuse_groups
from moex.cli.renamed import OPTIONS, SYNONYMS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def hydra_here(monkeypatch):
    register_resolvers()
    monkeypatch.chdir(CONF.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


def attempt(folder: Path, *words: str) -> None:
    """What run.py does with these words."""
    words = tuple(implied([*words]))
    refuse_groups([*words])
    run(folder, *words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("mode=sim", "mode=sim: there is no such option; .*; try mode=simulate"),
        ("mode=replay", "; try mode=simulate"),
        ("mode=simulate quant=int4", "quant=int4: there is no such option; .*; try quant=rtn_4bit"),
        ("mode=simulate quant=4", "; try quant=hqq_4bit"),
        ("mode=simulate quant=hqq4", "; try quant=hqq_4bit"),
        (
            "experiment=zoo",
            "experiment=zoo: there is no such option; .*; try experiment=policy_zoo",
        ),
        ("mode=simulate hardware=4090", "; try hardware=rtx4090"),
        ("mode=simulate hardware=cuda", "named by model.device=cuda; .*; try hardware=auto"),
        ("mode=simulate cache=opt", "; try cache=belady"),
        ("mode=simulate prefetch=lookahead", "; try prefetch=gate"),
        ("mode=simulate cache.size=4", "cache.size: there is no such key; .*try memory.slots=4"),
        ("mode=simulate prefetch.layers=2", "; try prefetch.depth=2"),
        ("mode=simulate batch_size=4", "batch_size: .*; try workload.batch_size=4"),
        ("mode=simulate max_new_tokens=4", "; try workload.new_tokens=4"),
        ("mode=simulate policy=lfu", "policy: there is no such key; .*; try cache=lfu"),
        ("mode=plan vram=3GB", "vram: there is no such key; .*; try memory.budget=3GB"),
    ],
)
def test_a_word_of_another_tool_is_told_its_name_here(words, line, tmp_path, hydra_here):
    with pytest.raises((HydraException, ValueError)) as refused:
        attempt(tmp_path, *words.split())
    found = one_line(refused.value)
    assert "\n" not in found
    assert re.search(line, found), found
    attempt(tmp_path, *words.split()[:-1], *suggested(found))
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_folder_is_the_name_of_a_model_and_no_option(mixtral, tmp_path, hydra_here):
    words = ["mode=plan", f"model={mixtral}"]
    with pytest.raises(ValueError, match=r"try model=hf model\.name=/") as refused:
        attempt(tmp_path, *words)
    better = str(refused.value).partition("; try ")[2].split()
    attempt(tmp_path, "mode=plan", *better)
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_model_without_a_tokenizer_runs_on_random_tokens(mixtral, tmp_path, hydra_here):
    folder = shutil.copytree(mixtral, tmp_path / "bare", ignore=lambda _, names: [
        name for name in names if "token" in name
    ])  # fmt: skip
    words = ["model=hf", f"model.name={folder}", "memory.store=ram"]
    with pytest.raises(ValueError, match="no tokenizer that transformers can read") as refused:
        attempt(tmp_path, *words)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    attempt(tmp_path, *words, *suggested(str(refused.value)))
    assert (tmp_path / "run" / "result.json").is_file()


def test_every_other_name_stands_for_one_that_is_there():
    for group, names in OPTIONS.items():
        known = {path.stem for path in (CONF / group).glob("*.yaml")}
        assert set(names.values()) <= known, group
        assert not names.keys() & known, group
    for name, key in SYNONYMS.items():
        group, _, field = key.partition(".")
        assert name != key
        assert not field or any(
            f"\n{field}:" in path.read_text() for path in (CONF / group).glob("*.yaml")
        ), key


@pytest.mark.parametrize(
    ("given", "near"),
    [("sim", "simulate"), ("zoo", "policy_zoo"), ("simulate_it", "simulate"), ("evla", "eval")],
)
def test_the_nearest_word_begins_alike_holds_the_word_or_is_spelt_alike(given, near):
    assert nearest(given, ["eval", "simulate", "policy_zoo", "live"], {})[0] == near


def test_a_budget_alone_needs_no_slots_null():
    assert implied(["memory.budget=6GB"]) == ["memory.budget=6GB", "memory.slots=null"]
    for words in (["memory.budget=null"], ["memory.budget=6GB", "memory.slots=4"], ["seed=1"]):
        assert implied(words) == words


def test_a_budget_alone_is_planned_for(here, tmp_path):
    code, out, err = here("mode=plan", "memory.budget=3GB", f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    assert '"slots": ' in out


@pytest.mark.parametrize("group", groups())
def test_help_of_a_group_names_its_options_and_keys(group):
    text = group_help(group)
    for path in (CONF / group).glob("*.yaml"):
        assert f"{group}={path.stem}" in text
    if group == "memory":
        assert re.search(r"^  memory\.budget +null: instead of slots", text, re.MULTILINE)


def test_help_of_a_group_is_printed_and_of_another_word_refused(here):
    assert asked_group(["memory.slots", "--help"]) == "memory"
    assert asked_group(["memory.slots=3", "--help"]) is asked_group(["--help"]) is None
    code, out, _ = here("cache", "--help")
    assert (code, out.splitlines()[0].partition(":")[0]) == (0, "cache")
    code, out, err = here("quantization", "--help")
    assert (code, out) == (1, "")
    assert err.endswith("try python run.py quant --help\n")


def test_help_names_completion_and_a_folder_of_ones_own(here):
    _, out, _ = here("--help")
    assert "--config-dir FOLDER" in out
    assert "-sc install=bash" in out
