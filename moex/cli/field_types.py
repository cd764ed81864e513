"""Checks plain values against the fields of a class: types, and numbers that are finite.

The same checks for all settings; a class checks the ranges of its own fields.
"""

from __future__ import annotations

import collections.abc
import math
import re
import sys
from dataclasses import MISSING, fields
from inspect import get_annotations
from types import UnionType
from typing import Any, get_args, get_origin

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
LARGEST = 10**18
"""Of any number in a setting: sums and products of two are still finite, and whole ones 64 bits."""


def check_types(kind: Any, given: dict[str, Any], where: str) -> None:
    """Refuse what the fields of a class cannot hold.

    Args:
        kind: a dataclass.
        given: values by name; "???" is yet to come.
        where: what stands before a name on the command line, e.g. "memory.".

    Raises:
        ValueError: an unknown name, a value of another type, or a number that is not finite.
    """
    known = {each.name: each for each in fields(kind) if each.init}
    for name, value in given.items():
        key = f"{where}{name}"
        if name not in known:
            one_of = f"one of {', '.join(known)}" if known else "none"
            raise ValueError(f"{key}: there is no such key; expected {one_of}")
        if value == "???":
            continue
        hint, usual = _hint(kind, name), _default(kind, name)
        if not _fits(value, hint):
            quoted = f"""'"{typed(value)}"'""" if _fits("", hint) else None
            listed = f"[{typed(value)}]" if _fits([value], hint) and _finite(value) else None
            better = quoted or listed or usual
            advice = f"; try {key}={better}" if better else ""
            raise ValueError(f"{key}={typed(value)}: expected {_words(hint)}{advice}")
        # A number that may be text instead ("6GiB") is for its class to read.
        as_text = not isinstance(value, list | dict) and _fits("", hint)
        if not as_text and not _finite(value):
            advice = f"; try {key}={usual}" if usual else ""
            raise ValueError(
                f"{key}={typed(value)}: expected a finite number, at most {LARGEST:g}{advice}"
            )


def with_advice(line: str, kind: Any, key: str = "") -> str:
    """An error of a class about one of its fields, with the key as given and what to type.

    Args:
        line: "group.field=value: expected ..."; where it says nothing to try, the default is added.
        kind: the dataclass.
        key: the dotted name of the class's settings where they stand deeper than in a group.
    """
    group, _, deeper = key.partition(".")
    if deeper:
        names = "|".join(each.name for each in fields(kind))
        line = re.sub(rf"(?<![\w.]){group}\.(?=({names})\b)", f"{key}.", line)
    found = re.match(r"((?:\w+\.)+(\w+))=", line)
    usual = _default(kind, found[2]) if found else None
    return f"{line}; try {found[1]}={usual}" if found and usual and "try " not in line else line


def typed(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    known = {"None": "null", "True": "true", "False": "false"}
    return known.get(str(value), str(value))


def _default(kind: Any, name: str) -> str | None:
    """A field's default as written on the command line; None where it has none."""
    field = {each.name: each for each in fields(kind)}.get(name)
    if field is None or (field.default is MISSING and field.default_factory is MISSING):
        return None
    return typed(field.default if field.default_factory is MISSING else field.default_factory())


def _finite(value: Any) -> bool:
    """Whether all numbers in a plain value are finite, and none is larger than any can mean."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, int | float) or (math.isfinite(value) and abs(value) <= LARGEST)


def _hint(kind: Any, name: str) -> Any:
    """The type of a field; Any where its annotation means something only to a type checker."""
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
    """A type in plain words."""
    if hint in (None, type(None)):
        return "null"
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (list, collections.abc.Sequence):
        return f"a list of {_plural(_words(inner[0]))}"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping, {key: value}"
    return WORDS.get(hint) or " or ".join(map(_words, inner)) or "something else"


def _plural(words: str) -> str:
    """What a list is of."""
    words = words.removeprefix("a ")
    return re.sub(r"\b(number|list)\b", r"\1s", words)
