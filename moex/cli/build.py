"""Makes the typed parts that a configuration names."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from moex.cache.memory import Memory
from moex.cli.errors import unknown_top
from moex.cli.field_types import check_types, typed, with_advice
from moex.modes.run import Eval, Mode, Model, Run, Runner, Top

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omegaconf import DictConfig

GROUPS: dict[str, Any] = {
    "mode": Mode,
    "runner": Runner,
    "model": Model,
    "memory": Memory,
    "eval": Eval,
}
"""Classes of the groups that name none."""


def typed_run(config: DictConfig) -> Run:
    """Return the run of a configuration, whose parts are made when they are asked for.

    Raises:
        ValueError: a setting or group was taken away.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    for gone in sorted({*Top.__annotations__, *Run.__annotations__} - {*settings}):
        raise ValueError(f"{gone}: is needed, and was taken away; leave out ~{gone}")

    def make(group: str) -> Any:
        if group in GROUPS:
            return _construct(GROUPS[group], settings[group], group)
        node = settings[group]
        if group == "prefetch":  # of every prefetcher, and no field of its class
            node = {name: value for name, value in (node or {}).items() if name != "governor"}
        return build(node, group) if "_target_" in (node or ()) else None

    return Run(settings, make)


def build(node: Any, key: str) -> Any:
    """Make the objects that plain settings name by `_target_`, innermost first.

    Args:
        node: plain settings; what names no class stays as it is.
        key: their dotted name, for messages.

    Raises:
        ValueError: settings that a class cannot take, or refuses.
    """
    if isinstance(node, list):
        return [build(each, key) for each in node]
    if not isinstance(node, dict):
        return node
    made = {name: build(value, f"{key}.{name}") for name, value in node.items()}
    if (target := made.pop("_target_", None)) is None:
        return made
    return _construct(imported(target, f"{key}._target_"), made, key)


def imported(name: str, key: str) -> Any:
    """Return what a dotted name stands for.

    Raises:
        ValueError: there is no such thing.
    """
    module, _, attribute = str(name).rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        line = f"{key}={name}: {error}; expected a name that Python can import"
        raise ValueError(line) from error


def _construct(kind: Any, given: dict[str, Any], key: str) -> Any:
    if is_dataclass(kind):
        check_types(kind, given, f"{key}.")
    for name, value in given.items():
        if value == "???":
            line = f"{key}.{name}: has no value; expected {key}.{name}=VALUE on the command line"
            raise ValueError(line)
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"{key}: {error}") from error
    except ValueError as error:
        raise ValueError(with_advice(str(error), kind, key)) from error


def check_all(settings: dict[str, Any], groups: Iterable[str]) -> None:
    """Refuse what cannot be in the settings that name no class.

    Args:
        settings: plain settings, all of them.
        groups: the names of groups in them; all other names are settings themselves.

    Raises:
        ValueError: an unknown setting, or a value of another type or range.
    """
    top = {name: value for name, value in settings.items() if name not in groups}
    for name in {*top} - {each.name for each in fields(Top)}:
        raise ValueError(unknown_top(*_leaf(name, top[name])))
    check_types(Top, top, "")
    for name, kind in GROUPS.items():
        if "???" in settings[name].values():  # missed only where it is used
            check_types(kind, settings[name], f"{name}.")
        else:
            _construct(kind, settings[name], name)


def _leaf(key: str, value: Any) -> tuple[str, str]:
    """The first setting below a key, as given: its dotted name and value."""
    while isinstance(value, dict) and value and "_target_" not in value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key, "..." if isinstance(value, dict) else typed(value)
