"""What makes two runs the same run: the hash that names a result's folder."""

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

from moex.paths import cache_folder, downloaded_folder, model_folder, trace_path

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
    "hardware",
    "workload",
    "eval",
    "seed",
    "smoke",
    "cache_dir",
)
"""What touches a result: groups, and the disk that experts are read from. Trackers, folders of
results and verbosity do not."""

SAMPLED = 1 << 16
"""Bytes at either end of a large file that its digest is of."""

WHOLE = 1 << 26
"""A file of up to so many bytes is read whole, unless it holds weights."""

SILENT = {"runner": ("timeline", "unused"), "mode": ("unused",)}
"""Keys of these groups that touch no result either."""

FOLDERS = ("train.text", "eval.text_dir", "eval.data_dir", "workload.dataset")
"""Settings that may name a folder to read; other words are names of folders by chance."""

WRITTEN = ("train.out",)
"""Settings that name a file to write: what is in it decides nothing."""


def run_id(config: dict[str, Any]) -> str:
    """Ten hex digits of everything that decides the result.

    That is the semantic groups, the content of the trace and of all that they read (see
    `contents`), and the source text of every class that a `_target_` names: an edited policy is
    another run.
    """
    parts: dict[str, Any] = {name: config.get(name) for name in SEMANTIC}
    for name, keys in SILENT.items():
        parts[name] = {k: value for k, value in (parts[name] or {}).items() if k not in keys}
    parts |= {"sources": sources(parts), "contents": contents(parts)}
    if config.get("trace"):
        path = trace_path(str(config["trace"]))
        parts["trace"] = _file_digest(path) if path.is_file() else str(path)
    return key_of(parts)


def sources(groups: dict[str, Any]) -> dict[str, str]:
    """Digests of the files of all classes that groups of a configuration name."""
    return {node["_target_"]: _source(node["_target_"]) for node in _built(groups)}


def contents(groups: dict[str, Any]) -> dict[str, str]:
    """Digests of what groups of a configuration read, by the words that name it.

    Of files (prompts, counts, checkpoints, traces) and folders of text that they name; of the
    model, where it lies in a folder; of the checkpoints that trained parts find by themselves.
    Training reads no checkpoint: it writes one.
    """
    found = {}
    for name, text in _texts(groups):
        path = Path(os.path.expanduser(text))
        if name == "workload.routing":
            path = trace_path(text)
        if os.path.isfile(path) and name not in WRITTEN:  # False for what can be no file's name
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
    """Of every part that names no checkpoint, the one that it would find: its kind is its file."""
    found: dict[str, str] = {}
    if model is None:
        return found
    for node in _built(groups):
        kind = node["_target_"].rpartition(".")[0].rpartition(".")[2]
        there = [path for path in checkpoint_paths(kind, model) if path.is_file()]
        if there and not node.get("checkpoint"):
            found[f"{kind} checkpoint"] = _file_digest(there[0])
    return found


def checkpoint_paths(kind: str, model: Path) -> tuple[Path, Path]:
    """Where a trained part looks for its checkpoint: beside the model, then in the cache folder.

    There it is under the digest of the model's weights, which is the same wherever these lie.
    """
    name, weights = f"{kind}.safetensors", folder_digest(model, (".safetensors",))
    cached = cache_folder().expanduser() / "predictors" / weights / name
    return model / "predictors" / name, cached


@cache
def code_version(package: str = "") -> str:
    """Ten hex digits of the text of moex, or of one of its packages: code and word lists."""
    folder = Path(__file__).parents[1] / package
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".txt"))
    return _digest(b"\0".join(path.read_bytes() for path in files))[:10]


def code_digest(text: str) -> str:
    """Twelve hex digits of what a text of Python does: no comments, docstrings and formatting."""
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [each for each in body if not _is_text(each)]
    return _digest(ast.unparse(tree).encode())[:12]


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def key_of(settings: dict[str, Any]) -> str:
    """Ten hex digits of plain settings."""
    return _digest(json.dumps(settings, sort_keys=True, default=str).encode())[:10]


def folder_digest(folder: Path, which: tuple[str, ...] = (".json", ".safetensors")) -> str:
    """Ten hex digits of a model folder: the one identity that a model has, wherever it lies.

    Of every file whose name or suffix is in `which`: its name, its size, and of what is in it the
    head, the tail and pages spread between. Reading tens of gigabytes to name a result would take
    longer than the result.
    """
    parts: list[Any] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.suffix in which or path.name in which):
            state = _state(path)
            parts.append((path.name, state[0], _sampled(path, *state)))
    return key_of({"files": parts})


def _file_digest(path: Path) -> str:
    """Of all of a file; of one that holds weights, or is large, as `folder_digest` samples it."""
    state = _state(path)
    if state[0] > WHOLE or path.suffix == ".safetensors":
        return f"{state[0]} {_sampled(path, *state)}"
    return _digest(path.read_bytes())


def _state(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change and inode: the same as long as nobody wrote the file."""
    about = path.stat()
    return about.st_size, about.st_ctime_ns, about.st_ino  # the other time can be set back


@cache
def _sampled(path: Path, size: int, changed: int, inode: int) -> str:
    """Digest of head, tail and pages between; asked again, it is read again only if it changed."""
    with path.open("rb", buffering=0) as file:
        seen = [file.read(SAMPLED)]
        for number in range(1, 17):
            file.seek(size * number // 17)
            seen.append(file.read(4096))
        file.seek(max(0, size - SAMPLED))
        seen.append(file.read(SAMPLED))
    return _digest(b"".join(seen))


def _texts(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain settings, and its dotted name."""
    if isinstance(node, str):
        yield name, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _texts(value, f"{name}.{key}".lstrip("."))
    for value in node if isinstance(node, list) else ():
        yield from _texts(value, name)


def _built(node: Any) -> Iterator[dict[str, Any]]:
    """Every node of plain settings that names a class."""
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        yield node
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _built(value)


def _source(target: str) -> str:
    """Digest of the file that defines a dotted name, without importing it; its name if unknown."""
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
