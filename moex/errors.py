"""One clear line for bad input: what was given, what was expected, what to type instead."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

CONF = Path(__file__).parents[1] / "conf"


def leave(error: Exception) -> NoReturn:
    """End the program with one line and exit code 1; with a traceback where it was asked for."""
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

    from moex.identity import run_id

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
    if kind == "ConfigCompositionException":
        return _unknown_key(str(error))
    if kind == "OverrideParseException":
        return f"{text}; expected key=value, e.g. cache=lru memory.slots=4"
    if lacking := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{lacking[1]}: has no value; expected {lacking[1]}=VALUE on the command line"
    cause = error.__cause__
    if kind == "InstantiationException" and cause is not None:
        return _constructor(error, cause)
    if isinstance(error, OSError) and error.filename and error.errno:
        return _file(error)
    if kind in ("ValueError", "FileNotFoundError", "RuntimeError", "PermissionError"):
        return text
    return f"{kind}: {text} (MOEX_TRACEBACK=1 shows where)"


def _file(error: OSError) -> str:
    """The system refused a file: which, why, and what would help."""
    why = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "make room and type the command again; nothing half-written is left"
    elif error.errno == errno.ENOENT:
        hint = "expected a file that is there"
    else:
        hint = (
            "expected a place that can be read and written; results go where "
            "hydra.run.dir=FOLDER (with -m: hydra.sweep.dir=FOLDER) says"
        )
    return f"{error.filename}: {why}; {hint}"


def _unknown_option(error: BaseException, text: str) -> str:
    missing = str(getattr(error, "missing_cfg_file", "") or "")
    options = list(getattr(error, "options", None) or [])
    group, _, given = missing.rpartition("/")
    if not options:
        return text
    near = difflib.get_close_matches(given, options, n=1)
    hint = near[0] if near else options[0]
    return (
        f"{group}={given}: there is no such option; expected one of {', '.join(sorted(options))}; "
        f"try {group}={hint}"
    )


def _unknown_key(text: str) -> str:
    match = re.search(r"Could not override '([^']+)'", text)
    if not match:
        return " ".join(text.split())
    key = match[1]
    group, _, last = key.rpartition(".")
    known = _keys(group) if (CONF / group).is_dir() and group else _keys("")
    wrong = last if (CONF / group).is_dir() and group else key.partition(".")[0]
    near = difflib.get_close_matches(wrong, known, n=1)
    hint = f"; try {key.replace(wrong, near[0], 1)}=..." if near else ""
    return f"{key}: there is no such key; expected one of {', '.join(known)}{hint}"


def _keys(group: str) -> list[str]:
    """Keys of the files of a group, or of the main file and the names of all groups."""
    files = sorted((CONF / group).glob("*.yaml"))
    found = {
        line.partition(":")[0]
        for path in files
        for line in path.read_text().splitlines()
        if re.match(r"[a-z]\w*:", line)
    }
    if not group:
        found |= {path.name for path in CONF.iterdir() if path.is_dir()}
    return sorted(found - {"defaults", "hydra"})


def _constructor(error: BaseException, cause: BaseException) -> str:
    """A part refused its hyper-parameters, or was given one that it does not have."""
    text = " ".join(str(cause).split())
    if isinstance(cause, TypeError):
        node = re.search(r"full_key: (\S+)", str(error))
        return f"{node[1] if node else 'configuration'}: {text}"
    return text
