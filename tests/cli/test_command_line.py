"""What is wrong with a command itself, before or beside its settings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typed import corrected, suggested

from moex.cli.errors import CONF
from moex.cli.overrides import named_models, options_first, refuse_groups

ROOT = CONF.parent
SIMULATE = ["mode=simulate", "smoke=true", "bottleneck=false", "tracker=none"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """run.py in a process of its own, as a sweep needs it: Hydra looks for sweepers once."""
    return subprocess.run(
        [sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("cache=null", "cache=null: there is no such option; expected one of arc, belady, "),
        ("cache=5", "cache=5: there is no such option; expected one of arc, belady, "),
        ("cache=true", "cache=true: there is no such option; expected one of arc, belady, "),
        ("cache={k: 1}", "cache={k: 1}: there is no such option; expected one of arc, belady, "),
        ("cache=", "cache=: there is no such option; expected one of arc, belady, "),
        ("cache=lru,null", "cache=lru,null: there is no such option; expected one of arc, "),
        ("mode=null", "mode=null: there is no such option; expected one of calibrate, chat, "),
        ("ablation=null", "ablation=null: there is no such option; expected one of full, "),
    ],
)
def test_what_names_no_option_is_refused_with_one_that_is(word, line):
    with pytest.raises(ValueError, match="; try ") as refused:
        refuse_groups([word])
    assert str(refused.value).startswith(line)
    refuse_groups(suggested(str(refused.value)))


def test_a_model_may_be_given_as_its_file_or_folder(tmp_path):
    path = tmp_path / "model.gguf"
    path.touch()
    found = named_models([f"model={path}", "cache=lru", f"model={tmp_path}"])
    named = ["model=hf", f"model.name={path}", "cache=lru", "model=hf", f"model.name={tmp_path}"]
    assert found == named
    for given in (["model=tiny"], ["model=nowhere/at/all"], [f"cache={tmp_path}"]):
        assert named_models(given) == given


def test_options_of_a_sweep_and_lists_of_studies_are_let_through():
    refuse_groups(["cache=lru,lfu", "experiment=glob(*)", "ablation=[full,naive]", "+cache=lru"])
    refuse_groups(["memory.slots=null", "trace=null", "seed=5", "~cache", "-m"])


def test_null_in_the_place_of_an_option_is_corrected_by_what_is_suggested(here, tmp_path):
    words = [*SIMULATE, f"hydra.run.dir={tmp_path}/run", "cache=null"]
    code, out, err = here(*words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("moex: cache=null: there is no such option")
    code, out, err = here(*corrected(words, err))
    assert (code, json.loads(out.splitlines()[-1])["policy"]) == (0, "lru")


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_results_folder_that_cannot_be_made_is_named(key):
    done = command(*SIMULATE, f"{key}=/proc/foo", *(["-m"] if "sweep" in key else []))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    expected = f"moex: {key}=/proc/foo: no such file or directory; expected a path that can be"
    assert done.stderr.startswith(expected)
    assert suggested(done.stderr) == [f"{key}=results/mine"]


def test_a_setting_of_hydra_s_that_cannot_be_is_named(here):
    code, out, err = here(*SIMULATE, "hydra.run.dir=null")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("moex: hydra.run.dir=null: ")
    assert err.endswith("; python run.py --cfg hydra shows what is expected\n")
    code, out, _ = here("--cfg", "hydra")
    assert code == 0
    assert "dir: results/" in out


def test_a_sweep_may_be_asked_for_between_overrides(tmp_path):
    done = command("seed=1,2", "--multirun", *SIMULATE, "-m", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [1, 2]


def test_overrides_keep_their_order():
    words = ["seed=1", "-m", "cache=lru", "--config-dir", "mine", "~cache"]
    assert options_first(words) == ["-m", "seed=1", "cache=lru", "--config-dir", "mine", "~cache"]
