"""Checks a configuration against the types of the constructors' fields.

A part's settings are the fields of its class. Groups that name no class have one here.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.memory import Memory
from moex.cli.errors import unknown_top
from moex.cli.field_types import check_types, typed, with_advice
from moex.types import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHTS = ("checkpoint", "random")
WIDEST = 32
"""Bits of a weight in a checkpoint."""


@dataclass
class Top:
    """Top-level settings."""

    trace: str | None = "tiny"
    bottleneck: bool = True
    cache_dir: str | None = None
    seed: int = 0
    smoke: bool = False
    force: bool = False
    objective: str = "tokens_per_second"

    def __post_init__(self) -> None:
        _at_least("", self, seed=0)


@dataclass
class Mode:
    """`mode=`: its function, the overrides that it ignores, and the settings of `mode=plan`."""

    name: str
    run: str
    bits: list[float] = field(default_factory=list)
    hit_rates: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not all(0 < width <= WIDEST for width in self.bits):
            raise ValueError(
                f"mode.bits={typed(self.bits)}: expected bits of a weight above 0, at most "
                f"{WIDEST}; try mode.bits=[4.5,3.0]"
            )
        if not all(0 <= rate <= 1 for rate in self.hit_rates):
            raise ValueError(
                f"mode.hit_rates={typed(self.hit_rates)}: expected shares from 0 to 1; "
                "try mode.hit_rates=[0.5,0.9]"
            )


@dataclass
class Runner:
    """`runner=`: who runs the model."""

    name: str
    timeline: bool = True
    experts: str = "grouped_mm"
    threads: int | None = None
    unused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _at_least("runner.", self, threads=1)
        cores = os.cpu_count() or 1
        if self.threads is not None and self.threads > cores:
            raise ValueError(
                f"runner.threads={self.threads}: expected at most {cores}, the cores of this "
                f"machine; try runner.threads={cores}"
            )


@dataclass
class Model:
    """`model=`: which one, and where its weights come from."""

    name: str
    dtype: str = "auto"
    device: str = "cpu"
    weights: str = "checkpoint"
    keep_shards: bool = True
    architecture: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        known = {"dtype": DTYPES, "weights": WEIGHTS}
        for name, options in known.items():
            if (given := getattr(self, name)) not in options:
                raise ValueError(f"model.{name}={given}: expected one of {', '.join(options)}")


@dataclass
class Eval:
    """`eval=`: tasks, and how many items."""

    tasks: list[str]
    limit: int | None = None
    batch_size: int = 32
    data_dir: str | None = None
    text_dir: str | None = None

    def __post_init__(self) -> None:
        _at_least("eval.", self, limit=1, batch_size=1)


GROUPS: dict[str, Any] = {
    "mode": Mode,
    "runner": Runner,
    "model": Model,
    "memory": Memory,
    "eval": Eval,
}


def check_all(config: dict[str, Any], groups: Iterable[str]) -> None:
    """Refuse what cannot be in the settings that build no part.

    Args:
        config: plain settings, all of them.
        groups: the names of groups in them; all other names are settings themselves.

    Raises:
        ValueError: an unknown setting, or a value of another type or range.
    """
    top = {name: value for name, value in config.items() if name not in groups}
    for name in {*top} - {each.name for each in fields(Top)}:
        raise ValueError(unknown_top(*_leaf(name, top[name])))
    _checked(Top, top, "")
    for name, kind in GROUPS.items():
        _checked(kind, config[name], f"{name}.")


def _leaf(key: str, value: Any) -> tuple[str, str]:
    """The first setting below a key, as given: its dotted name and value."""
    while isinstance(value, dict) and value and "_target_" not in value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key, "..." if isinstance(value, dict) else typed(value)


def check(node: Any, where: str) -> None:
    """Refuse what the class that a `_target_` names cannot take, and those of nodes in it.

    Args:
        node: plain settings.
        where: their dotted name, for messages.

    Raises:
        ValueError: an unknown setting, or a value of another type.
    """
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        check(value, f"{where}.{name}")
    kind = _named(node.get("_target_"))
    if is_dataclass(kind):
        given = {name: value for name, value in node.items() if not name.startswith("_")}
        check_types(kind, given, f"{where}.".lstrip("."))


def refusal(error: Exception) -> str:
    """The message of a class that refused its settings, with what to type instead.

    Args:
        error: Hydra's, which names the class and the key of its settings; caused by the class's.
    """
    target, key = (re.search(rf"{name} '?([\w.]+)", str(error)) for name in ("target", "full_key:"))
    kind, line = _named(target and target[1]), str(error.__cause__)
    return with_advice(line, kind, key[1] if key else "") if is_dataclass(kind) else line


def _named(target: Any) -> Any:
    """The class of a dotted name; None if there is none: `build` reports why."""
    module, _, name = str(target).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None


def _checked(kind: Any, given: dict[str, Any], where: str) -> None:
    check_types(kind, given, where)
    if "???" in given.values():
        return
    try:
        kind(**given)  # ranges are its own business
    except ValueError as error:
        raise ValueError(with_advice(str(error), kind)) from error


def _at_least(where: str, settings: Any, **least: int) -> None:
    for name, low in least.items():
        given = getattr(settings, name)
        if given is not None and given < low:
            raise ValueError(
                f"{where}{name}={given}: expected at least {low}; try {where}{name}={low}"
            )
