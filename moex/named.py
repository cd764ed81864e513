"""Parts by name: `cache="lru"` is the command line's `cache=lru`, of `conf/cache/lru.yaml`."""

from __future__ import annotations

import difflib
import inspect
import re
from functools import cache
from importlib import import_module
from typing import Any

import yaml

from moex.paths import CONF

BASES = {
    "cache": "moex.cache.base.CachePolicy",
    "prefetch": "moex.prefetch.base.Prefetcher",
    "quant": "moex.quant.base.Scheme",
    "sparsity": "moex.sparsity.base.NeuronSelector",
    "miss": "moex.miss.base.MissHandler",
    "routing": "moex.routing.base.RoutingPolicy",
    "hardware": "moex.hardware.profile.HardwareProfile",
}
"""By argument, the class that a part is an instance of."""
EXAMPLES = {"cache": "lru", "prefetch": "gate", "quant": "hqq_4bit", "hardware": "t4"}
EXAMPLES |= {"sparsity": "corm", "miss": "fetch", "routing": "cache_prior"}


def parts(**given: Any) -> dict[str, Any]:
    """Return the parts that arguments name, and those that the names switch on.

    Args:
        given: by argument, a name, an instance, or None.

    Raises:
        ValueError: a name that stands for no part.
        TypeError: a class where an instance belongs, or something else.
    """
    found = dict(given)
    for argument, value in given.items():
        if not isinstance(value, str):
            _check(argument, value)
            continue
        settings, switched_on = _settings(argument, value)
        found[argument] = _made(settings)
        for other, name in switched_on.items():
            if other in given and found[other] is None:
                found[other] = _made(_settings(other, name)[0])
    return found


def slots_of(
    slots: int | float | list[int] | None, budget: int | float | str | None
) -> int | float | list[int] | None:
    """Return the slots of a layer: as given, or half of its experts where there is no budget.

    Raises:
        TypeError: no number.
    """
    if slots is None:
        return 0.5 if budget is None else None
    if isinstance(slots, bool) or not isinstance(slots, int | float | list | tuple):
        raise TypeError(
            f"slots={slots!r}: a {type(slots).__name__}; expected a number of experts a layer, or "
            "a share below 1, or a list of one for each layer; try slots=4"
        )
    return slots


def by_class(name: str) -> Any:
    """Return the class of a part by its own name, such as LRU.

    Raises:
        AttributeError: there is none, or several.
    """
    found = _classes().get(name, [])
    if len(found) == 1:
        return _imported(found[0])
    if found:
        several = " and ".join(found)
        raise AttributeError(f"moex.{name}: stands for {several}; import the one that is meant")
    raise AttributeError(f"module 'moex' has no attribute {name!r}")


@cache
def _classes() -> dict[str, list[str]]:
    """By class name the dotted names of moex's own parts."""
    found: dict[str, list[str]] = {}
    for group in BASES:
        for path in sorted((CONF / group).glob("*.yaml")):
            for target in re.findall(r"_target_: (moex\.\S+)", path.read_text()):
                known = found.setdefault(target.rpartition(".")[2], [])
                known += [target] if target not in known else []
    return found


def _settings(group: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A yaml of a group, and by group the options that it switches on."""
    path = CONF / group / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        known = sorted(each.stem for each in (CONF / group).glob("*.yaml"))
        near = [word for word in known if word.startswith(name) or name in word] if name else []
        near += difflib.get_close_matches(name, known, n=1) or [EXAMPLES[group]]
        raise ValueError(
            f"{group}={name!r}: no part of that name; expected one of {', '.join(known)}, or an "
            f"instance of a class of your own; try {group}={near[0]!r}"
        )
    given: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    base: dict[str, Any] = {}
    switched_on: dict[str, str] = {}
    for entry in given.pop("defaults", []):
        if isinstance(entry, dict):
            for key, option in entry.items():
                switched_on[key.removeprefix("override").strip(" /")] = option
        elif entry != "_self_":
            base = _settings(group, entry)[0]
    own = given[group] if isinstance(given.get(group), dict) else given  # of a global package
    return base | own, switched_on


def _made(node: Any) -> Any:
    """The object that settings describe; None where they name no class."""
    if isinstance(node, list):
        return [_made(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return None if {*node} == {"name"} else {key: _made(value) for key, value in node.items()}
    settings = {key: _made(value) for key, value in node.items() if key != "_target_"}
    return _imported(node["_target_"])(**settings)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _check(argument: str, value: Any) -> None:
    """Refuse what is neither None nor an instance of the argument's class.

    Raises:
        TypeError: so it is.
    """
    if value is None:
        return
    kind, example = BASES[argument], EXAMPLES[argument]
    noun = kind.rpartition(".")[2]
    if inspect.isclass(value):
        raise TypeError(
            f"{argument}={value.__name__}: a class; expected an instance of {noun}, or a name; try "
            f"{argument}={value.__name__}() or {argument}={example!r}"
        )
    if not isinstance(value, _imported(kind)):
        raise TypeError(
            f"{argument}={value!r}: a {type(value).__name__}; expected an instance of {noun}, or a "
            f"name; try {argument}={example!r}"
        )
