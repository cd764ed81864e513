"""What may stand in a configuration: the types of the constructors' fields, checked for all alike.

A part's settings are the fields of its class. Groups that name no class have one here.
"""

from __future__ import annotations

import collections.abc
import importlib
import sys
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import get_annotations
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from moex.cache.capacity import Memory
from moex.errors import unknown_top

if TYPE_CHECKING:
    from collections.abc import Iterable

DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("checkpoint", "random")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass
class Top:
    """Settings beside all groups."""

    trace: str | None = "tiny"
    verdict: bool = True
    cache_dir: str | None = None
    seed: int = 0
    smoke: bool = False
    force: bool = False
    objective: str = "tokens_per_second"

    def __post_init__(self) -> None:
        _at_least("", self, seed=0)


@dataclass
class Mode:
    """`mode=`: its function, words that it has no use for, and what `mode=plan` asks beside it."""

    name: str
    run: str
    bits: list[float] = field(default_factory=list)
    hit_rates: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


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
        for name, words in known.items():
            if (given := getattr(self, name)) not in words:
                raise ValueError(f"model.{name}={given}: expected one of {', '.join(words)}")


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
    """The first setting below a key, as it is typed: its dotted name and value."""
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
        _check_types(kind, given, f"{where}.".lstrip("."))


def _named(target: Any) -> Any:
    """The class of a dotted name; None for what is none: who builds it says why."""
    module, _, name = str(target).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None


def _checked(kind: Any, given: dict[str, Any], where: str) -> None:
    _check_types(kind, given, where)
    if "???" not in given.values():
        kind(**given)  # ranges are its own business


def _check_types(kind: Any, given: dict[str, Any], where: str) -> None:
    known = {each.name: each for each in fields(kind) if each.init}
    for name, value in given.items():
        key = f"{where}{name}"
        if name not in known:
            one_of = f"one of {', '.join(known)}" if known else "none"
            raise ValueError(f"{key}: there is no such key; expected {one_of}")
        hint = _hint(kind, name)
        if value != "???" and not _fits(value, hint):
            default = known[name].default
            quoted = f"""'"{typed(value)}"'""" if _fits("", hint) else None
            listed = f"[{typed(value)}]" if _fits([value], hint) else None
            usual = None if isinstance(default, tuple) or default is MISSING else typed(default)
            better = quoted or listed or usual
            raise ValueError(
                f"{key}={typed(value)}: expected {_words(hint)}"
                + (f"; try {key}={better}" if better else "")
            )


def _hint(kind: Any, name: str) -> Any:
    """The type of a field; Any where its words mean something only to a type checker."""
    owner = next(base for base in kind.__mro__ if name in get_annotations(base))
    text = get_annotations(owner)[name]
    known = vars(collections.abc) | vars(sys.modules[owner.__module__])
    try:
        return eval(text, known) if isinstance(text, str) else text
    except NameError:
        return Any


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; a whole number is a number, true and false are none."""
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (list, collections.abc.Sequence):
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    return origin is not UnionType or any(_fits(value, each) for each in inner)


def _words(hint: Any) -> str:
    """A type as people say it."""
    if hint in (None, type(None)):
        return "null"
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (list, collections.abc.Sequence):
        return f"a list of {_words(inner[0]).removeprefix('a ')}".replace("number", "numbers")
    if origin in (dict, collections.abc.Mapping):
        return "a mapping, {key: value}"
    return WORDS.get(hint) or " or ".join(map(_words, inner)) or "something else"


def typed(value: Any) -> str:
    """A value as it is typed."""
    known = {"None": "null", "True": "true", "False": "false"}
    return known.get(str(value), str(value))


def _at_least(where: str, settings: Any, **least: int) -> None:
    for name, low in least.items():
        given = getattr(settings, name)
        if given is not None and given < low:
            raise ValueError(
                f"{where}{name}={given}: expected at least {low}; try {where}{name}={low}"
            )
