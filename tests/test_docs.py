"""What the README says can be typed, and what it names exists."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
from runpy import run_path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from analysis.options import catalogue
from moex.cli.errors import register_resolvers
from moex.runs.report import Report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python run\.py (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
STUDIES = sorted(ROOT.glob("experiments/*/README.md"))


@pytest.fixture(autouse=True)
def launchers(monkeypatch):
    """Hydra finds ours where run.py tells it to look."""
    monkeypatch.syspath_prepend(ROOT / "moex" / "sweeps")
    import_module("hydra_plugins.moex.joblib_launcher")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_composes(command):
    _compose(command.split())


def _compose(words):
    words = [word.partition(",")[0] for word in words if word != "-m"]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("config", overrides=words)


def commands(text):
    """What follows `python` in blocks, indented lines and inline code."""
    block = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [line for found in block.findall(text) for line in found.splitlines()]
    rest = block.sub("", text)
    lines += re.findall(r"^ {4}.*$", rest, re.MULTILINE)
    lines += [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", rest)]
    found = [re.search(r"(?:^|\s)python (\S+\.py.*?)(?:;|\s#|$)", line) for line in lines]
    return [match[1].split() for match in found if match]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_a_study_is_written_up_and_its_commands_can_be_typed(study, monkeypatch):
    text = study.read_text()
    assert all(f"**{part}" in text for part in ("Question", "Command", "Conclusion"))
    for picture in study.parent.glob("*.png"):
        assert f"({picture.name})" in text, picture
    given = commands(text)
    assert given, "no command"
    for script, *words in given:
        if script == "run.py":
            _compose([word for word in words if word != "WITH"])  # a placeholder for words
            continue
        path = next(
            folder / script for folder in (ROOT, study.parent) if (folder / script).exists()
        )
        assert _parses(path, words, monkeypatch), f"python {script} {' '.join(words)}"


class Parsed(Exception):
    """Raised instead of what a script would do next."""


def _parses(path, words, monkeypatch):
    """Whether a script's own parser takes the words; one without a parser must name them."""
    source = path.read_text()
    if "ArgumentParser" not in source:
        return all(word in source for word in words)
    parse = ArgumentParser.parse_args

    def parsed(self, *given):
        parse(self, *given)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", parsed)
        patch.setattr("sys.argv", [str(path), *map(placeholder, words)])
        patch.syspath_prepend(path.parent)
        try:
            run_path(str(path), run_name="__main__")
        except Parsed:
            return True
        except SystemExit:
            return False
        finally:  # studies' helpers have each other's names
            for name, module in list(sys.modules.items()):
                if Path(getattr(module, "__file__", None) or "").parent == path.parent:
                    del sys.modules[name]
    return False


def placeholder(word):
    """A value for what stands for one: `[--windows 32]`, `a|b`, `$f`."""
    return re.sub(r"\$\w+", "1", word.strip("[]").partition("|")[0])


def test_the_fields_of_the_metrics_table_are_the_row_s():
    table = README.partition("## Metrics")[2].partition("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(Report().__dict__)


def test_the_catalogue_lists_every_option():
    assert catalogue(README, ROOT / "conf") == README, "python -m analysis.options adds the lines"


def test_an_option_of_somebody_else_gets_a_line_and_the_others_stay():
    longer = catalogue(README, ROOT / "tests/plugin_example/conf")
    lines = set(longer.splitlines()) - set(README.splitlines())
    idea = "Largest average router share stays"
    assert f"| `heaviest` | {idea} |  | `plugin_example.heaviest` |" in lines
    assert len(lines) == 2
    assert set(README.splitlines()) <= set(longer.splitlines())


def test_the_two_commands_stand_in_the_readme_once_each():
    assert README.count("pip install -e . && python run.py\n") == 1
    assert README.count('pip install -e ".[test]" && pytest\n') == 1


def test_every_config_names_a_file_that_is_there():
    for path in (ROOT / "conf").glob("*/*.yaml"):
        target = (yaml.safe_load(path.read_text()) or {}).get("_target_", "")
        if target.startswith("moex."):
            module = target.rpartition(".")[0].replace(".", "/")
            assert (ROOT / f"{module}.py").is_file(), path
