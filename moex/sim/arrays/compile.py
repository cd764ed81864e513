"""Compiles the replay with the rules of a policy, and keeps what was compiled.

What is compiled are plain functions, which also run interpreted. They are followed to the functions
that they call, so that rules and their helpers need no decoration, in moex or out of it. What is
compiled lies in a folder of $MOEX_CACHE whose name is a hash of all their code: numba's own cache
does not notice that a called function has changed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections import namedtuple
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy
from moex.paths import cache_folder
from moex.runs.atomic import write_atomically
from moex.sim.arrays import replay as replaying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moex.cache.base import CachePolicy

RULES = (*ArrayPolicy.RULES, "score")

ENTRY = """\
State = namedtuple("State", "{names}")


def pick(states, pool):
    return State({picked})


def restore(states, fresh):
    {restored}


def entry(events, settings, r, v, m, counts, last, governing, states, fresh):
    run = Run(r, v, m, counts, last, governing, State({states}), State({fresh}))
    replay(events, settings, run)
"""


OPTIONS: Any = {"_nrt": False, "nogil": True}
"""Nothing is allocated, so that no reference to an array is counted. All is one function in the
end: passing so many arrays on would take most of the time."""


Function = Any
"""A plain function (FunctionType)."""


class NotCompiled(Exception):
    """A rule that does not compile; the message is one line that says where."""


def array_form(policy: CachePolicy) -> bool:
    """Whether all that a policy does is stated by its rules."""
    if not isinstance(policy, ArrayPolicy):
        return False
    if any(map(policy.overrides, (*ArrayPolicy.RULES.values(), "reset", "victim"))):
        return False
    return all(isinstance(getattr(type(policy), rule), FunctionType) for rule in RULES)


def compiled_replay(
    policy: CachePolicy, fields: tuple[str, ...], timed: bool, predicts: bool
) -> Callable[..., Any]:
    """Return the function `entry` of `ENTRY`, which compiles when it is first called.

    Args:
        policy: in array form; its rules take the place of those of `ArrayPolicy`.
        fields: the names in its state.
        timed: whether there is a clock.
        predicts: whether there is a prefetcher.
    """
    import numba

    text = ENTRY.format(
        names=" ".join(fields),
        picked=", ".join(f"states.{name}[pool]" for name in fields),
        restored="\n    ".join(f"copy(fresh.{name}, states.{name})" for name in fields),
        states=", ".join(f"states[{number}]" for number in range(len(fields))),
        fresh=", ".join(f"fresh[{number}]" for number in range(len(fields))),
    )
    places = {getattr(ArrayPolicy, rule): getattr(type(policy), rule) for rule in RULES}
    has = {"TIMED": timed, "PREDICTS": predicts, "BYPASS": bool(policy.bypass)}
    has["FUTURE"] = "future" in policy.needs
    key = (vars(numba.config)["DISABLE_JIT"], text, *has.values(), *places.values())
    if key not in _COMPILED:
        _COMPILED[key] = _compile(text, places, has)
    return _COMPILED[key]


_COMPILED: dict[Any, Callable[..., Any]] = {}


def _compile(
    text: str, places: dict[Function, Function], has: dict[str, bool]
) -> Callable[..., Any]:
    import numba

    reached: dict[Function, None] = {}
    _follow(replaying.replay, places, reached)
    code = [each for function in (*reached, _compile, _twin) for each in _describe(function)]
    versions = (numba.__version__, platform.python_version(), platform.machine())
    digest = hashlib.sha256(repr((text, has, versions, code)).encode()).hexdigest()[:32]
    path = cache_folder().expanduser() / "replay" / digest / "entry.py"
    names: dict[str, Any] = {"__name__": __name__, "Run": replaying.Run, "namedtuple": namedtuple}
    exec(compile(text, str(path), "exec"), names)
    places = {**places, replaying.pick: names["pick"], replaying.restore: names["restore"]}
    twins: dict[Function, Any] = {}
    names["copy"] = _twin(replaying.copy, places, has, twins)
    names["replay"] = _twin(replaying.replay, places, has, twins)
    compiled: Callable[..., Any] = numba.njit(names["entry"], **OPTIONS, cache=_stored(path, text))
    return compiled


def call(compiled: Callable[..., Any], *given: Any) -> None:
    """Call a function of `compiled_replay`.

    Raises:
        NotCompiled: what of it does not compile.
    """
    from numba.core.errors import NumbaError

    try:
        compiled(*given)
    except NumbaError as error:
        text = re.sub(r"\x1b\[\d*m", "", str(error))
        places = re.findall(r'File "([^"]+)", line (\d+)', text)  # the innermost is the first
        where = "{}, line {}".format(*places[0]) if places else "a rule"
        lines = [line.strip() for line in text.splitlines()]
        why = next((line for line in lines if line and not line.startswith("Failed in ")), text)
        raise NotCompiled(f"{where} does not compile: {why}") from error


def _twin(
    function: Function,
    places: dict[Function, Function],
    has: dict[str, bool],
    twins: dict[Function, Any],
) -> Any:
    """Return a compiled copy of a function, which calls compiled copies of functions."""
    import numba

    if function not in twins:
        names = {**function.__globals__, **has}
        copied = FunctionType(
            function.__code__,
            names,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        twins[function] = numba.njit(copied, **OPTIONS, forceinline=True)
        called = _called(function, places)
        names |= {name: _twin(each, places, has, twins) for name, each in called}
    return twins[function]


def _follow(
    function: Function,
    places: dict[Function, Function],
    reached: dict[Function, None],
) -> None:
    """Add a function and all that it calls."""
    if function not in reached:
        reached[function] = None
        for _, called in _called(function, places):
            _follow(called, places, reached)


def _called(function: Function, places: dict[Function, Function]) -> Iterator[tuple[str, Function]]:
    """Yield the plain functions that a function names, and those in their places."""
    for name in _names(function.__code__):
        found = function.__globals__.get(name)
        if isinstance(found, FunctionType):
            yield name, places.get(found, found)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _describe(function: Function) -> Iterator[str]:
    """Yield what decides how a function compiles: its code, and the constants that it names."""
    yield from _describe_code(function.__code__)
    yield repr(function.__defaults__)
    yield from (repr(cell.cell_contents) for cell in function.__closure__ or ())
    for name in sorted(set(_names(function.__code__))):
        value = function.__globals__.get(name)
        if isinstance(value, bool | int | float | str | tuple):
            yield f"{name}={value!r}"
        elif isinstance(value, type):
            yield f"{name}={getattr(value, '_fields', value)!r}"


def _describe_code(code: CodeType) -> Iterator[str]:
    yield repr((code.co_code, code.co_names, code.co_varnames))
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _describe_code(each)
        else:
            yield repr(each)


def _stored(path: Path, text: str) -> bool:
    """Write the text to the file beside which numba stores; whether that is possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_atomically(path, text)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)
