"""Finds files: models, traces, the cache folder of derived data, and plug-ins named by a word."""

from __future__ import annotations

import os
import re
from functools import cache
from glob import glob, has_magic
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("tiny",)
CONF = Path(__file__).parents[1] / "conf"
"""The options of the command line, where moex runs from its repository."""


def model_folder(name: str) -> Path | None:
    """Return the folder of a bundled or local model; None if the name is not a folder."""
    folder = ASSETS / name if name in BUNDLED else Path(name).expanduser()
    return folder if name and folder.is_dir() else None


def downloaded_folder(name: str) -> Path | None:
    """Return the folder of a Hugging Face Hub model in the hub's cache; None if it is not there.

    Its content is not part of the run id: it is unknown before the first download, and the same
    command has to find its cached result afterwards.
    """
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def trace_path(name: str) -> Path:
    """Return the file of a trace, given the name of a bundled trace or a path."""
    bundled = ASSETS / "traces" / f"{name}.parquet"
    return bundled if bundled.is_file() else Path(name)


def trace_files(given: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files of a trace: of names and paths, with patterns (`run-*.parquet`) expanded."""
    found: list[Path] = []
    for name in map(str, [given] if isinstance(given, str | Path) else given):
        matches = sorted(map(Path, glob(name, recursive=True))) if has_magic(name) else []
        found += [trace_path(name)] if Path(name).is_file() or not matches else matches
    return found


def cache_folder() -> Path:
    """Return the folder of data derived from models: $MOEX_CACHE, or one in the user's cache."""
    own = os.environ.get("MOEX_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moex"


@cache
def plug_ins(room: str, noun: str) -> dict[str, str]:
    """Return the plug-ins of a room, by file name: dotted names of classes.

    They are the classes whose base is called `noun` or ends in it (`Link`). Files are read and not
    imported: most would load torch.
    """
    found, package = {}, f"moex.{room.replace('/', '.')}"
    for path in sorted((Path(__file__).parent / room).glob("*.py")):
        for name in re.findall(rf"^class (\w+)\(\w*{noun}\):", path.read_text(), re.MULTILINE):
            found[path.stem] = f"{package}.{path.stem}.{name}"
    return found


def check_word(key: str, word: str, room: str, noun: str) -> None:
    """Refuse a word that is neither auto, nor a file of the room, nor a dotted name.

    Raises:
        ValueError: the word, and those that work.
    """
    known = ("auto", *plug_ins(room, noun))
    if word not in known and "." not in str(word):
        raise ValueError(
            f"{key}={word}: expected one of {', '.join(known)}, or the dotted name of a class "
            f"(package.module.Class); try {key}=auto"
        )


def plug_in(key: str, word: str, room: str, noun: str) -> Any:
    """Return the class that a word of a room, or a dotted name, stands for.

    Raises:
        ValueError: there is none.
    """
    check_word(key, word, room, noun)
    module, _, name = plug_ins(room, noun).get(word, word).rpartition(".")
    try:
        found = getattr(import_module(module), name)
        if any(base.__name__.endswith(noun) for base in getattr(found, "__mro__", ())):
            return found
        wrong = f"{name} is no {noun}"
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        wrong = str(error)
    raise ValueError(
        f"{key}={word}: {wrong}; expected the dotted name of a {noun} on PYTHONPATH; try {key}=auto"
    )
