"""The page of configuration keys says what the files in conf/ say, and those leave nothing out."""

from __future__ import annotations

import re
import shlex

import pytest

from moex.cli import keys

PAGE = (keys.CONF / "README.md").read_text()
FILES = [path for path in sorted(keys.CONF.rglob("*.yaml")) if path.parent.name != "local"]
PRESETS = [path for path in FILES if path.parent.name in keys.PRESETS]


def name(path):
    return path.relative_to(keys.CONF).with_suffix("").as_posix()


def test_the_page_is_what_the_generator_writes():
    introduction = PAGE.partition("\n## ")[0]
    assert f"{introduction}\n{keys.page()}" == PAGE, "python -m moex.cli.keys writes it anew"


def test_the_page_has_every_option_and_every_group():
    linked = set(re.findall(r"\]\(([\w/]+)\.yaml\)", PAGE))
    assert linked == {name(path) for path in FILES} - {"config"}
    folders = {path.parent.relative_to(keys.CONF).as_posix() for path in FILES} - {"."}
    assert set(keys.groups()) == folders
    assert all(what for _, what in keys.groups().values())


@pytest.mark.parametrize("path", [path for path in FILES if path not in PRESETS], ids=name)
def test_every_key_has_a_meaning(path):
    lacking = [key for key, (_, meaning) in keys.keys(path).items() if not meaning]
    assert not lacking, f"{path}: write a comment behind {', '.join(lacking)}"


def test_a_key_takes_comment_and_value_from_its_file_or_its_base(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "CONF", tmp_path)
    (tmp_path / "zoo").mkdir()
    base = tmp_path / "zoo" / "base.yaml"
    base.write_text(
        "# Animals.\n#   python run.py zoo=base  # now\n_target_: a.B\n"
        "legs: 4   # how many,\n          # 0 or more\nname: 'a # b'\n"
        "food:      # by season\n  summer: [hay,\n    oats]\n"
        "home:\n  place: >-  # where it lives\n    far # away\n  rent: 1\n"
    )
    (tmp_path / "zoo" / "bird.yaml").write_text("# A bird.\ndefaults:\n  - base\nlegs: 2\n")
    assert keys.header(base) == ("Animals.", "`python run.py zoo=base`")
    own = {
        "zoo.legs": ("4", "how many, 0 or more"),
        "zoo.name": ("'a # b'", ""),
        "zoo.food": ("...", "by season"),
        "zoo.home.place": ("...", "where it lives"),
        "zoo.home.rent": ("1", ""),
    }
    assert keys.keys(base) == own
    bird = keys.keys(tmp_path / "zoo" / "bird.yaml")
    assert bird == own | {"zoo.legs": ("2", "how many, 0 or more")}


def commands(path):
    """The commands of a text that can be typed as they stand: (key, value) of their overrides."""
    line = re.compile(r"^(?:#   )?python run\.py (?:-m )?(?!--)(.+?)(?:  +#.*)?$", re.MULTILINE)
    for found in line.findall(path.read_text()):
        if found.endswith(" --help"):  # asks about a group
            continue
        words = (word.partition("=") for word in shlex.split(found) if not word.startswith("+"))
        yield [(key, value) for key, _, value in words]


@pytest.mark.parametrize("path", [*FILES, keys.CONF / "README.md"], ids=lambda path: path.name)
def test_commands_name_options_and_keys_that_are_there(path):
    typed = list(commands(path))
    assert typed, f"{path}: no command"
    for words in typed:
        chosen = {key: value.split(",") for key, value in words if "." not in key}
        for key, _ in words:
            group = key.partition(".")[0]
            options = chosen.get(group) or [each.stem for each in keys.options(group)]
            files = [keys.CONF / group / f"{option}.yaml" for option in options]
            if key not in keys.groups():
                files = files if group in keys.groups() else [keys.CONF / "config.yaml"]
                known = set().union(*map(keys.keys, files))
                assert any(f"{key}.".startswith(f"{each}.") for each in known), key
            elif not key.startswith("hydra/"):
                assert all(file.is_file() for file in files), words
