"""Checks of a command's overrides beyond Hydra's own."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from moex.cli.errors import keys_of, nearest, unknown_option
from moex.cli.renamed import SYNONYMS
from moex.paths import CONF, trace_files
from moex.runs.notes import note

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omegaconf import DictConfig


def given_twice(overrides: list[str]) -> list[str]:
    """Keys and groups that are given more than once: the last one counts, as Hydra has it."""
    keys = [
        override.partition("=")[0]
        for override in overrides
        if "=" in override and override[0] not in "-~"
    ]
    return sorted({key for key in keys if keys.count(key) > 1})


def options_first(overrides: list[str]) -> list[str]:
    """The arguments with `-m` first: argparse takes overrides in one piece only."""
    return sorted(overrides, key=lambda override: override not in ("-m", "--multirun"))


def implied(overrides: list[str]) -> list[str]:
    """The arguments, and what they imply.

    A budget without slots implies `memory.slots=null`. A replay of a trace without gate-lookahead
    scores implies `prefetch=none`, which is said.
    """
    given = {key.lstrip("+~"): value for key, _, value in (w.partition("=") for w in overrides)}
    found = [*overrides]
    if given.get("memory.budget", "null") != "null" and not {"memory.slots", "memory"} & {*given}:
        found.append("memory.slots=null")
    chosen = {"prefetch", "experiment", "ablation"} & {*given}
    if given.get("mode") == "simulate" and "trace" in given and not chosen:
        names = given["trace"].strip("'\"").strip("[]").split(",")
        if any(lacks_lookahead(path) for path in trace_files([name.strip() for name in names])):
            note(f"trace={given['trace']}: recorded without gate-lookahead scores: prefetch=none")
            found.append("prefetch=none")
    return found


def lacks_lookahead(path: Path) -> bool:
    """Whether a trace can be read and holds no scores for `prefetch=gate`."""
    import pyarrow.parquet as pq

    try:
        return "lookahead" not in pq.read_schema(path).names
    except Exception:  # what is wrong with it is said by the mode
        return False


def asked_group(overrides: list[str]) -> str | None:
    """The group that `python run.py GROUP --help` asks about; None: it is no such command.

    Raises:
        ValueError: a word that is no group.
    """
    words = [word for word in overrides if word not in ("--help", "-h")]
    if len(words) != 1 or len(overrides) != 2 or words[0].startswith("-") or "=" in words[0]:
        return None
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "local")
    group = words[0].partition(".")[0]
    if group in groups:
        return group
    near = nearest(group, groups, SYNONYMS) or ["memory"]
    raise ValueError(
        f"{group} --help: there is no such group; expected one of {', '.join(groups)}; "
        f"try python run.py {near[0]} --help"
    )


def _refuse_path(group: str, given: str) -> None:
    """Refuse a folder or a hub repository in the place of a model's option.

    Raises:
        ValueError: it is one.
    """
    if group == "model" and ("/" in given or given.startswith((".", "~"))):
        raise ValueError(
            f"model={given}: there is no such option, and a folder or hub repository is the name "
            f"of one; expected model=OPTION; try model=hf model.name={given}"
        )


def named_models(overrides: list[str]) -> list[str]:
    """The arguments with `model=PATH`, of a file or folder that is there, as Hydra takes it."""
    found = []
    for override in overrides:
        key, _, given = override.partition("=")
        if key == "model" and "/" in given and Path(given).expanduser().exists():
            found += ["model=hf", f"model.name={given}"]
        else:
            found.append(override)
    return found


def refuse_groups(overrides: list[str]) -> None:
    """Refuse what is no option of a group: null, a number, or several options in one run.

    Hydra would merge several options into one, and names no group where it refuses the others.

    Raises:
        ValueError: something else where one option belongs; studies and ablations may be several.
    """
    for override in overrides:
        group, _, given = override.lstrip("+").partition("=")
        if "=" not in override or not re.fullmatch(r"\w+", group) or not (CONF / group).is_dir():
            continue
        _refuse_path(group, given)
        listed = re.fullmatch(r"\[(.*)\]", given)
        if listed and keys_of(group):
            raise ValueError(
                f"{override}: one option a run; expected {group}=OPTION; for a sweep, "
                f"try python run.py -m {group}={listed[1].replace(' ', '')}"
            )
        if not listed and (given.startswith("{") or not all(map(_is_name, given.split(",")))):
            options = [path.stem for path in (CONF / group).glob("*.yaml")]
            raise ValueError(unknown_option(group, given, options))


def _is_name(text: str) -> bool:
    return isinstance(yaml.safe_load(text), str)


def ignored_overrides(config: Any, overrides: Sequence[str]) -> Iterator[str]:
    """Yield a line for overrides that the mode or the baseline ignores.

    Where modes or runners are swept over, each of them.
    """
    for mode, runner in product(
        _chosen(config, "mode", overrides), _chosen(config, "runner", overrides)
    ):
        unused = [*mode.get("unused", ()), *runner.get("unused", ())]
        ignored = re.compile(rf"\+*({'|'.join(unused) or '$'})[.=](?!none$)")
        if found := [override for override in overrides if ignored.match(override)]:
            by = f"mode={mode['name']} runner={runner['name']}"
            yield f"ignored by {by}: {' '.join(found)}"


def _chosen(config: Any, group: str, overrides: Sequence[str]) -> list[Any]:
    """The options of a group that overrides sweep over, else the one that is configured."""
    swept = [
        override.partition("=")[2] for override in overrides if override.startswith(f"{group}=")
    ]
    if not swept or "," not in swept[-1]:
        return [config[group]]
    paths = [CONF / group / f"{name.strip()}.yaml" for name in swept[-1].split(",")]
    return [yaml.safe_load(path.read_text()) for path in paths if path.is_file()]


def notice_ignored(config: Any, overrides: Sequence[str]) -> None:
    """Say on the screen which overrides this mode and runner ignore."""
    for line in ignored_overrides(config, overrides):
        note(line)


def count_cells(config: DictConfig) -> int:
    """How many cells a grid has; 0 where a search chooses cells, or an override is wrong."""
    sweeper = config.hydra.sweeper
    with suppress(Exception):  # the sweeper reports wrong overrides
        if is_grid(sweeper):
            swept = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            overrides = parser.parse_overrides([*swept, *config.hydra.overrides.task])
            return len(BasicSweeper.split_arguments(overrides, None)[0])
    return 0


def is_grid(sweeper: DictConfig) -> bool:
    """Whether a sweeper runs all combinations; others search, by each cell's objective."""
    # By name: in a process of a launcher's the class may not be there to be imported.
    return sweeper._target_.rpartition(".")[2] in ("Grid", "BasicSweeper")
