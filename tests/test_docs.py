"""What the READMEs say can be typed, what they name exists, and every field is explained."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import ArgumentParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from analysis.options import catalogue
from moex.cli.errors import register_resolvers
from moex.runs.report import Report
from moex.testing import check_policy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
METRICS = (ROOT / "analysis/README.md").read_text()
INDEX = (ROOT / "experiments/README.md").read_text().partition("## Index")[2]
PAGES = sorted({*ROOT.glob("README.md"), *ROOT.glob("[a-z]*/README.md")})
PAGES += sorted(ROOT.glob("experiments/*/README.md"))
STUDIES = sorted(ROOT.glob("experiments/*/*/README.md"))
LARGEST = 14 * 1024
NAMED = re.compile(r"`((?:moex|conf|analysis|experiments|tests|notebooks)/[\w./-]*)`")


@pytest.fixture(autouse=True)
def launchers(monkeypatch):
    """Hydra finds ours where run.py tells it to look."""
    monkeypatch.syspath_prepend(ROOT / "moex" / "sweeps")
    import_module("hydra_plugins.moex.joblib_launcher")


def _compose(words):
    if "--config-dir" in words:
        return  # a folder of the reader's own
    typed = [word for word in shlex.split(" ".join(words)) if not word.startswith("-")]
    words = [re.split(r",(?![^\[(]*[\])])", word)[0] for word in typed if "=" in word]
    words = [word for word in words if "=range(" not in word]
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("config", overrides=words)


def commands(text):
    """What follows `python` in blocks of no language, indented lines and inline code."""
    text = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    block = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [line for found in block.findall(text) for line in found.splitlines()]
    rest = block.sub("", text)
    lines += re.findall(r"^ {4}.*$", rest, re.MULTILINE)
    lines += [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", rest)]
    found = [re.search(r"(?:^|\s)python (\S+\.py.*?)(?:;|\s#|$)", line) for line in lines]
    return [match[1].split() for match in found if match]


COMMANDS = {
    " ".join(words): words
    for page in PAGES
    for script, *words in commands(page.read_text())
    if script == "run.py"
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_composes(command):
    _compose(COMMANDS[command])


def test_commands_are_found_on_every_page_that_shows_some():
    shown = {page: page.read_text().count("\npython run.py ") for page in PAGES}
    assert sum(shown.values()) > 25
    for page, lines in shown.items():
        found = [words for script, *words in commands(page.read_text()) if script == "run.py"]
        assert len(found) >= lines, page


@pytest.mark.parametrize("page", [*PAGES, *STUDIES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_of_a_page_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), f"{page}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            named = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert anchor in named, f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_path_or_module_that_a_page_names_is_there(page):
    text = page.read_text()
    for path in NAMED.findall(text):
        assert (ROOT / path).exists(), f"{page}: {path}"
    for module in re.findall(r"python -m ((?:moex|analysis)[\w.]*)", text):
        assert find_spec(module), f"{page}: {module}"


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
    """Whether a script takes the words."""
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
    table = METRICS.partition("\n## Metrics")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(Report().__dict__)


def test_the_catalogue_lists_every_option():
    assert catalogue(README, ROOT / "conf") == README, "python -m analysis.options adds the lines"


def test_an_option_of_somebody_else_gets_a_line_and_the_others_stay():
    longer = catalogue(README, ROOT / "tests/plugin_example/conf")
    lines = set(longer.splitlines()) - set(README.splitlines())
    idea = "Largest average router share stays"
    assert f"| `heaviest` | {idea} |  | `plugin_example.heaviest` |" in lines
    assert len(lines) == 4
    assert set(README.splitlines()) <= set(longer.splitlines())


def test_the_index_has_every_study_and_preset_with_a_command_of_its_page():
    rows = re.findall(r"^\| \[\w+\]\(([\w/]+)\) \|[^|]+\|([^|]+)\|", INDEX, re.MULTILINE)
    assert sorted(name for name, _ in rows) == [
        str(study.parent.relative_to(ROOT / "experiments")) for study in STUDIES
    ]
    for name, cell in rows:
        page = " ".join((ROOT / "experiments" / name / "README.md").read_text().split())
        given = re.findall(r"`([^`]+)`", cell)
        assert given, f"{name}: no command"
        for command in given:
            assert " ".join(command.split()) in page, f"{name}: {command}"
    for preset in (ROOT / "conf/experiment").glob("*.yaml"):
        assert re.search(rf"experiment={preset.stem}\b", INDEX), preset.stem


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= LARGEST


def test_the_policy_in_the_readme_keeps_the_contract(tmp_path, monkeypatch):
    (source,) = re.findall(r"^```python\n(from .*?)^```$", README, re.MULTILINE | re.DOTALL)
    (settings,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_policies.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module, _, name = yaml.safe_load(settings)["_target_"].rpartition(".")
    check_policy(getattr(import_module(module), name))


def test_the_two_commands_stand_in_the_readme_once_each():
    assert README.count("pip install -e . && python run.py\n") == 1
    assert README.count('pip install -e ".[test]" && pytest\n') == 1


def test_every_config_names_a_file_that_is_there():
    for path in (ROOT / "conf").glob("*/*.yaml"):
        target = (yaml.safe_load(path.read_text()) or {}).get("_target_", "")
        if target.startswith("moex."):
            module = target.rpartition(".")[0].replace(".", "/")
            assert (ROOT / f"{module}.py").is_file(), path
