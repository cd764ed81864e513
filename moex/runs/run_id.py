"""The run id: a hash of everything that affects a result; it names the result's folder."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.paths import cache_folder, downloaded_folder, model_folder, trace_files, trace_path

if TYPE_CHECKING:
    from collections.abc import Iterator

SEMANTIC = (
    "mode",
    "runner",
    "model",
    "memory",
    "cache",
    "quant",
    "sparsity",
    "prefetch",
    "train",
    "miss",
    "routing",
    "hardware",
    "workload",
    "eval",
    "seed",
    "smoke",
    "cache_dir",
)
"""Settings that affect a result: groups, and the disk that experts are read from. Trackers,
result folders and verbosity do not."""

SAMPLED = 1 << 16
"""Bytes at either end of a large file that its digest covers."""

WHOLE = 1 << 26
"""Bytes up to which a file is read as a whole, unless it holds weights."""

SILENT = {"runner": ("timeline", "unused"), "mode": ("unused",)}
"""Keys of these groups that do not affect a result."""

FOLDERS = ("train.text", "eval.text_dir", "eval.data_dir", "workload.dataset")
"""Settings that may name a folder to read; other values may match a folder by accident."""

CLASSES = ("memory.store", "memory.link", ".kernel")
"""Settings that may name a class."""

WRITTEN = ("train.out",)
"""Settings that name a file to write: its previous content does not matter."""


def run_id(settings: dict[str, Any]) -> str:
    """Return the run id: ten hex digits of everything that affects the result.

    That is the groups of `SEMANTIC`, the content of the trace and of all files that they read (see
    `contents`), and the source text of every class that a `_target_` names: a run with an edited
    policy is a new run.
    """
    parts: dict[str, Any] = {name: settings.get(name) for name in SEMANTIC}
    for name, keys in SILENT.items():
        parts[name] = {k: value for k, value in (parts[name] or {}).items() if k not in keys}
    if (memory := parts["memory"] or {}).get("link") == "auto":  # ids older than the key remain
        parts["memory"] = {k: value for k, value in memory.items() if k != "link"}
    if "_target_" not in (parts["routing"] or ()):
        parts.pop("routing")
    parts |= {"sources": sources(parts), "contents": contents(parts)}
    if settings.get("trace"):
        digests = [
            _file_digest(path) if path.is_file() else str(path)
            for path in trace_files(settings["trace"])
        ]
        parts["trace"] = digests if len(digests) > 1 else digests[0]
    return key_of(parts)


def sources(groups: dict[str, Any]) -> dict[str, str]:
    """Return digests of the source files of all classes that a configuration names."""
    named = [node["_target_"] for node in _built(groups)]
    named += [text for key, text in _texts(groups) if key.endswith(CLASSES) and "." in text]
    return {name: _source(name) for name in named}


def contents(groups: dict[str, Any]) -> dict[str, str]:
    """Return digests of the files that a configuration reads, by the value that names them.

    These are files (prompts, counts, checkpoints, traces) and folders of text; the model, if it is
    a folder; and the checkpoints that trained classes find by default. Training reads no
    checkpoint: it writes one.
    """
    found = {}
    for name, text in _texts(groups):
        path = Path(os.path.expanduser(text))
        if name in ("workload.routing", "routing.trace"):
            path = trace_path(text)
        if os.path.isfile(path) and name not in WRITTEN:  # False for an invalid file name
            found[text] = _file_digest(path)
        elif name in FOLDERS and os.path.isdir(path):
            files = (file for file in sorted(path.rglob("*")) if file.is_file())
            found[text] = key_of({str(f.relative_to(path)): _file_digest(f) for f in files})
    model = groups.get("model") or {}
    folder = model_folder(str(model.get("name", "")))
    if folder is not None:
        found["model"] = folder_digest(folder)
    if (groups.get("mode") or {}).get("name") != "train":
        found |= _checkpoints(groups, folder or downloaded_folder(str(model.get("name", ""))))
    return found


def _checkpoints(groups: dict[str, Any], model: Path | None) -> dict[str, str]:
    """Return digests of default checkpoints; a class's kind is the name of its module."""
    found: dict[str, str] = {}
    if model is None:
        return found
    for node in _built(groups):
        kind = node["_target_"].rpartition(".")[0].rpartition(".")[2]
        paths = [path for path in checkpoint_paths(kind, model) if path.is_file()]
        if paths and not node.get("checkpoint"):
            found[f"{kind} checkpoint"] = _file_digest(paths[0])
    return found


def checkpoint_paths(kind: str, model: Path) -> tuple[Path, Path]:
    """Return the default paths of a checkpoint: in the model's folder, then the cache folder.

    In the cache folder it is under the digest of the model's weights, which does not depend on the
    model's path.
    """
    name, weights = f"{kind}.safetensors", folder_digest(model, (".safetensors",))
    cached = cache_folder().expanduser() / "predictors" / weights / name
    return model / "predictors" / name, cached


@cache
def code_version(package: str = "") -> str:
    """Return ten hex digits of the files of moex or one of its packages: .py and items."""
    folder = Path(__file__).parents[1] / package
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".xz"))
    return _digest(b"\0".join(path.read_bytes() for path in files))[:10]


def code_digest(text: str) -> str:
    """Return twelve hex digits of Python code, without comments, docstrings and formatting."""
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [each for each in body if not _is_text(each)]
    return _digest(ast.unparse(tree).encode())[:12]


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def key_of(settings: dict[str, Any]) -> str:
    """Return ten hex digits of plain settings."""
    return _digest(json.dumps(settings, sort_keys=True, default=str).encode())[:10]


def folder_digest(folder: Path, which: tuple[str, ...] = (".json", ".safetensors")) -> str:
    """Return ten hex digits that identify a model folder by content, not by path.

    The digest covers every file whose name or suffix is in `which`: its name, its size, its head
    and tail, and pages spread between. Reading all of it, tens of gigabytes, would take too long.
    """
    parts: list[Any] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.suffix in which or path.name in which):
            state = _state(path)
            parts.append((path.name, state[0], _sampled(path, *state)))
    return key_of({"files": parts})


def _file_digest(path: Path) -> str:
    """Return the digest of a file; a large file or one with weights is sampled."""
    state = _state(path)
    if state[0] > WHOLE or path.suffix == ".safetensors":
        return f"{state[0]} {_sampled(path, *state)}"
    return _digest(path.read_bytes())


def _state(path: Path) -> tuple[int, int, int]:
    """Return size, time of the last change and inode: unchanged until the file is written."""
    status = path.stat()
    return status.st_size, status.st_ctime_ns, status.st_ino  # mtime can be set back


@cache
def _sampled(path: Path, size: int, changed: int, inode: int) -> str:
    """Return the digest of head, tail and pages between; cached until the file changes."""
    with path.open("rb", buffering=0) as file:
        seen = [file.read(SAMPLED)]
        for number in range(1, 17):
            file.seek(size * number // 17)
            seen.append(file.read(4096))
        file.seek(max(0, size - SAMPLED))
        seen.append(file.read(SAMPLED))
    return _digest(b"".join(seen))


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and value of every string in plain settings."""
    if isinstance(node, str):
        yield name, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _texts(value, f"{name}.{key}".lstrip("."))
    for value in node if isinstance(node, list) else ():
        yield from _texts(value, name)


def _built(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of plain settings that names a class."""
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        yield node
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _built(value)


def _source(target: str) -> str:
    """Return the digest of the file that defines a dotted name; the name if it is not found."""
    module = target.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return target
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return target
    return _digest(Path(spec.origin).read_bytes())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
