"""One clear line for bad input: what was given, what was expected, what to type instead."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from moex.cli.renamed import DEVICES, KEYS, MODULES, NEEDS, OPTIONS, SYNONYMS
from moex.paths import CONF
from moex.runs.notes import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PLAIN = (
    "ValueError",
    "FileNotFoundError",
    "RuntimeError",
    "PermissionError",
    "SearchPathException",
)
"""Errors whose own message is the line."""


def leave(error: Exception) -> NoReturn:
    """End the program with one line and exit code 1; with a traceback where it was asked for."""
    progress("")
    if os.environ.get("MOEX_TRACEBACK"):
        raise error
    sys.exit(f"moex: {one_line(error)}")


def forget(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold, and of what led to it.

    A sweep keeps the error of every cell that failed, and with it would keep the cell's model.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def register_resolvers() -> None:
    """Teach OmegaConf `${run_id:}`, which names the folder of a result."""
    from omegaconf import DictConfig, OmegaConf

    from moex.runs.run_id import run_id

    def resolve(*, _root_: DictConfig) -> str:
        own = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
        return run_id(OmegaConf.to_container(own, resolve=True))  # type: ignore[arg-type]

    OmegaConf.register_new_resolver("run_id", resolve, use_cache=False, replace=True)


def one_line(error: BaseException) -> str:
    """Return the error in one line that helps."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if kind == "MissingConfigException":
        return _unknown_option(error, text)
    if text.startswith("Error merging override "):
        given, why = text.removeprefix("Error merging override "), str(error.__cause__)
        return f"{given}: {why.splitlines()[0]}; python run.py --cfg hydra shows what is expected"
    if kind == "ConfigCompositionException":
        return _unknown_key(str(error))
    if kind == "OverrideParseException":
        return f"{text}; expected key=value, e.g. cache=lru memory.slots=4"
    if told := _moved(error):
        return told
    if kind == "InstantiationException" and error.__cause__:  # a sweeper or launcher
        return " ".join(str(error.__cause__).split())
    if isinstance(error, OSError) and error.filename and error.errno:
        return _file(error)
    if kind in PLAIN:
        return text
    return f"{kind}: {text} (MOEX_TRACEBACK=1 shows where)"


def _moved(error: BaseException | None) -> str:
    """Where a module is now that the error, or what caused it, did not find."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name in MODULES:
            return f"import {error.name}: moved in moex 0.2; try import {MODULES[error.name]}"
        error = error.__cause__
    return ""


def _file(error: OSError) -> str:
    """The system refused a file: which, why, and what would help."""
    why = os.strerror(error.errno or 0).lower()
    calls = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "make room and type the command again; nothing half-written is left"
    elif error.errno == errno.ENOENT and calls.isdisjoint({"mkdir", "makedirs"}):
        hint = "expected a file that is there"
    else:
        hint = (
            "expected a path that can be read and written; results go where "
            "hydra.run.dir=FOLDER (with -m: hydra.sweep.dir=FOLDER) says"
        )
        for key, _, folder in (given.partition("=") for given in sys.argv):
            if key in ("hydra.run.dir", "hydra.sweep.dir") and str(error.filename) in folder:
                return f"{key}={folder}: {why}; {hint}; try {key}=results/mine"
    return f"{error.filename}: {why}; {hint}"


def _unknown_option(error: BaseException, text: str) -> str:
    missing = str(getattr(error, "missing_cfg_file", "") or "")
    options = list(getattr(error, "options", None) or [])
    group, _, given = missing.rpartition("/")
    return unknown_option(group, given, options) if options else text


def unknown_option(group: str, given: str, options: list[str]) -> str:
    """Say that a group has no such option, or what one that is known of would need."""
    if lacking := NEEDS.get(f"{group}={given}"):
        return f"{group}={given}: not available, it needs {lacking[0]}; nearest: try {lacking[1]}"
    usual = re.search(rf"- {group}: (\w+)", (CONF / "config.yaml").read_text())
    near = nearest(given, options, OPTIONS.get(group, {}))
    near += [usual[1]] if usual and usual[1] in options else options
    device = group == "hardware" and given in DEVICES
    where = f" a device is named by model.device={given};" if device else ""
    return (
        f"{group}={given}: there is no such option;{where} expected one of "
        f"{', '.join(sorted(options))}; try {group}={near[0]}"
    )


def nearest(given: str, known: Iterable[str], synonyms: Mapping[str, str]) -> list[str]:
    """Return what a word may have meant: a synonym, what it begins or is part of, or one like it.

    Args:
        given: the word.
        known: words that there are.
        synonyms: by another word, the known one.
    """
    low, known = given.lower().replace("-", "_"), sorted(known)
    found = [synonyms[low]] if synonyms.get(low) in known else []
    if len(low) > 1:
        found += [word for word in known if word.startswith(low)]
        found += [word for word in known if low in word]
    found += difflib.get_close_matches(low, known, n=1)
    return found or [word for word in known if len(word) > 3 and word in low]


def _unknown_key(text: str) -> str:
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{several[1]}: several values are swept: python run.py -m {several[1]}"
    match = re.search(r"Could not override '([^']+)'(?:.*use \+\S+?=(\S*))?", text, re.DOTALL)
    if not match:
        return " ".join(text.split())
    key, value = match[1], match[2] or "..."
    group, _, name = key.partition(".")
    if key in SYNONYMS:
        return unknown_top(key, value)
    if "@" in key:
        return f"{key}: a group is set once; try {key.partition('@')[0]}={value}"
    if not (CONF / group).is_dir() or "." in name:
        return unknown_top(key, value)
    keys = keys_of(group)
    having = [option for option, known in keys.items() if name in known]
    if having:
        return (
            f"{key}: the chosen {group} has no such key; {group}={'|'.join(having)} has it; "
            f"try {group}={having[0]} {key}={value}"
        )
    known = sorted(set().union(*keys.values()))
    near = nearest(name, known, {})
    hint = f"; try {group}.{near[0]}={value}" if near else ""
    return f"{key}: there is no such key; expected one of {', '.join(known)}{hint}"


def unknown_top(key: str, value: str) -> str:
    """Say that there is no such key, at the top level or inside a group."""
    if key in KEYS:
        return f"{key}: was renamed in moex 0.2; try {KEYS[key]}={value}"
    if key in SYNONYMS:
        return f"{key}: there is no such key; here it is called {_called(SYNONYMS[key], value)}"
    first = key.partition(".")[0]
    groups = [path.name for path in sorted(CONF.iterdir()) if path.is_dir()]
    if first in groups:
        return f"{key}: there is no such key; python run.py --cfg job shows those that there are"
    if usual := re.search(
        rf"^{first}: ([^\s#]+)", (CONF / "config.yaml").read_text(), re.MULTILINE
    ):
        return f"{key}: {first} is one value, and has no keys; try {first}={usual[1]}"
    known = sorted({*groups, *keys_of("")["config"]} - {"hydra"})
    inside = [
        f"{group}.{key}" for group in groups if any(key in k for k in keys_of(group).values())
    ]
    near = nearest(first, known, {})
    if first in ("launcher", "sweeper"):
        near = [f"hydra/{first}"]
    hints = [key.replace(first, each, 1) for each in near] or inside
    hint = f"; try {hints[0]}={value}" if hints else ""
    return f"{key}: there is no such key; expected one of {', '.join(known)}{hint}"


def _called(key: str, value: str) -> str:
    """A key by its name here, and what to type."""
    listed = f"'[{value}]'" if key == "workload.prompts" else value
    return f"{key}; try {key}={listed}"


def keys_of(group: str) -> dict[str, set[str]]:
    """By option of a group ("": of the main file), the keys of its file."""
    texts = {path.stem: path.read_text() for path in sorted((CONF / group).glob("*.yaml"))}
    return {
        option: set(re.findall(r"^([a-z]\w*):", text, re.MULTILINE)) - {"defaults"}
        for option, text in texts.items()
        if "@package _global_" not in text
    }
