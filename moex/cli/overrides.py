"""The overrides of a command: what is noticed about them beside what Hydra makes of them."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

import yaml

from moex.cli.errors import CONF, keys_of, unknown_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def given_twice(words: list[str]) -> list[str]:
    """Keys and groups that are given more than once: the last one counts, as Hydra has it."""
    keys = [word.partition("=")[0] for word in words if "=" in word and word[0] not in "-~"]
    return sorted({key for key in keys if keys.count(key) > 1})


def options_first(words: list[str]) -> list[str]:
    """The words with `-m` before all overrides: argparse takes these in one piece only."""
    return sorted(words, key=lambda word: word not in ("-m", "--multirun"))


def refuse_groups(words: list[str]) -> None:
    """Refuse what is no option of a group: null, a number, or several options in one run.

    Hydra would make one part of several, and names no group where it refuses the others.

    Raises:
        ValueError: something else where one option belongs; studies and ablations may be several.
    """
    for word in words:
        group, _, given = word.lstrip("+").partition("=")
        if "=" not in word or not re.fullmatch(r"\w+", group) or not (CONF / group).is_dir():
            continue
        listed = re.fullmatch(r"\[(.*)\]", given)
        if listed and keys_of(group):
            raise ValueError(
                f"{word}: one option a run; expected {group}=OPTION; for a sweep, "
                f"try python run.py -m {group}={listed[1].replace(' ', '')}"
            )
        if not listed and (given.startswith("{") or not all(map(_is_name, given.split(",")))):
            options = [path.stem for path in (CONF / group).glob("*.yaml")]
            raise ValueError(unknown_option(group, given, options))


def _is_name(text: str) -> bool:
    return isinstance(yaml.safe_load(text), str)


def ignored_overrides(config: Any, words: Sequence[str]) -> Iterator[str]:
    """Say which words were typed in vain: a mode, or a baseline, has no use for them.

    Where modes or runners are swept over, each of them.
    """
    for mode, runner in product(_chosen(config, "mode", words), _chosen(config, "runner", words)):
        unused = [*mode.get("unused", ()), *runner.get("unused", ())]
        vain = re.compile(rf"\+*({'|'.join(unused) or '$'})[.=](?!none$)")
        if found := [word for word in words if vain.match(word)]:
            who = f"mode={mode['name']} runner={runner['name']}"
            yield f"{who} has no use for {' '.join(found)}"


def _chosen(config: Any, group: str, words: Sequence[str]) -> list[Any]:
    """The options of a group that words sweep over, else the one that is configured."""
    swept = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    if not swept or "," not in swept[-1]:
        return [config[group]]
    paths = [CONF / group / f"{name.strip()}.yaml" for name in swept[-1].split(",")]
    return [yaml.safe_load(path.read_text()) for path in paths if path.is_file()]
