"""Checks plain values against the fields of a class, by pydantic, and says what was expected."""

from __future__ import annotations

import collections.abc
import math
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "a mapping, {key: value}",
}
"""Types of JSON schemas."""
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
LARGEST = 10**18
"""Of any number in a setting: sums and products of two are still finite, and whole ones 64 bits."""


def check_types(kind: Any, given: dict[str, Any], where: str) -> None:
    """Refuse what the fields of a class cannot hold.

    Args:
        kind: a dataclass.
        given: values by name; "???" is yet to come.
        where: what stands before a name on the command line, e.g. "memory.".

    Raises:
        ValueError: an unknown name, a value of another type or range, or a number that is not
            finite.
    """
    known = [each.name for each in fields(kind) if each.init]
    for name, value in given.items():
        key, usual = f"{where}{name}", _default(kind, name)
        if name not in known:
            one_of = f"one of {', '.join(known)}" if known else "none"
            raise ValueError(f"{key}: there is no such key; expected {one_of}")
        if value == "???":
            continue
        hint = _hint(kind, name)
        # A number that may be text instead ("6GiB") is for its class to read.
        as_text = not isinstance(value, list | dict) and _fits("", hint)
        if not as_text and not _finite(value):
            expected, better = f"a finite number, at most {LARGEST:g}", usual
        elif not _fits(value, hint):
            listed = f"[{typed(value)}]" if _fits([value], hint) else usual
            expected = _words(_adapter(hint).json_schema())
            better = f"""'"{typed(value)}"'""" if _fits("", hint) else listed
        else:
            continue
        advice = f"; try {key}={better}" if better else ""
        raise ValueError(f"{key}={typed(value)}: expected {expected}{advice}")


def with_advice(line: str, kind: Any, key: str) -> str:
    """An error of a class about one of its fields, with the key as given and what to type.

    Args:
        line: "group.field=value: expected ..."; where it says nothing to try, the default is added.
        kind: the class.
        key: the dotted name of its settings, which may stand deeper than in a group.
    """
    if not is_dataclass(kind):
        return line
    names = "|".join(each.name for each in fields(kind))
    line = re.sub(rf"(?<![\w.]){key.partition('.')[0]}\.(?=({names})\b)", f"{key}.", line)
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
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
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


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """The validator of a type; a class that pydantic does not know may hold anything."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True))
    except PydanticUserError:
        return TypeAdapter(Any)


def _fits(value: Any, hint: Any) -> bool:
    from pydantic import ValidationError

    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def _words(schema: dict[str, Any]) -> str:
    """A JSON schema in plain words."""
    if options := schema.get("anyOf"):
        return " or ".join(map(_words, options))
    if names := schema.get("enum"):
        return f"one of {', '.join(names)}"
    if schema.get("type") == "array":  # of numbers, lists, text
        each = re.sub(r"^a (.*?)(number|list)", r"\1\2s", _words(schema["items"]))
        return f"a list of {each}"
    limits = [f"{words} {schema[name]:g}" for name, words in LIMITS.items() if name in schema]
    return ", ".join([WORDS.get(schema.get("type", ""), "something else"), *limits])
